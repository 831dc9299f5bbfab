// The page: tabs, boards, runs, theme. All content is part of the HTML file; nothing is loaded.

const byId = (id) => document.getElementById(id);
const panels = [...document.querySelectorAll(".panel")];
const tabs = [...document.querySelectorAll(".tabs a")];
const current = {}; // track -> key of its board
let stores = null; // parsed content of #compressed

/** Return the HTML of a compressed part of the page. It was escaped before it was compressed. */
async function decompress(key) {
  stores = stores || JSON.parse(byId("compressed").textContent);
  const store = stores.find((item) => key in item.positions);
  if (!store) return "";
  if (typeof DecompressionStream === "undefined") return '<p class="note">This browser cannot decompress this part of the page.</p>';
  const [chunk, index] = store.positions[key];
  const bytes = Uint8Array.from(atob(store.chunks[chunk]), (char) => char.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  return JSON.parse(text)[index];
}

// Boards

const boardData = new WeakMap();

function dataOf(article) {
  if (!boardData.has(article)) boardData.set(article, JSON.parse(article.querySelector("script.data").textContent));
  return boardData.get(article);
}

function prepare(article) {
  if (article.dataset.ready) return;
  article.dataset.ready = "yes";
  article.querySelectorAll("table.sortable").forEach(makeSortable);
  makeFilterable(article);
  const redraw = () => drawChart(article, dataOf(article));
  article.querySelectorAll("[data-axis]").forEach((control) => control.addEventListener("change", redraw));
  article.querySelectorAll(".legend button").forEach((button) => {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      redraw();
    });
  });
  article.querySelector('[data-layers="point"]').addEventListener("change", () => drawLayers(article, dataOf(article)));
}

async function draw(article) {
  if (article.dataset.drawn === theme()) return;
  article.dataset.drawn = theme();
  await drawChart(article, dataOf(article));
  await drawLayers(article, dataOf(article));
}

async function showBoard(key) {
  const board = settings.boards.find((item) => item.key === key);
  if (!board) return;
  if (!byId(key)) {
    const holder = byId(board.track).querySelector(".decompressed");
    holder.insertAdjacentHTML("beforeend", await decompress(key));
  }
  const article = byId(key);
  if (!article) return;
  current[board.track] = key;
  byId(board.track).querySelectorAll(".board").forEach((item) => item.classList.toggle("current", item === article));
  const select = byId(`choose-${board.track}`);
  if (select) select.value = key;
  prepare(article);
  await draw(article);
}

function stepBoard(track, by) {
  const own = settings.boards.filter((item) => item.track === track);
  const index = own.findIndex((item) => item.key === current[track]);
  location.hash = own[(index + by + own.length) % own.length].key;
}

for (const select of document.querySelectorAll(".chooser select")) {
  for (const board of settings.boards) if (board.track === select.dataset.track) select.append(new Option(board.title, board.key));
  select.addEventListener("change", () => { location.hash = select.value; });
}
for (const button of document.querySelectorAll(".chooser button")) {
  button.addEventListener("click", () => stepBoard(button.dataset.track, Number(button.dataset.step)));
}

// Tabs

async function showPanel(id) {
  panels.forEach((panel) => panel.classList.toggle("current", panel.id === id));
  for (const tab of tabs) {
    const chosen = tab.hash === `#${id}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
  }
  const first = settings.boards.find((board) => board.track === id);
  if (first) await showBoard(current[id] || first.key);
}

document.querySelector(".tabs").setAttribute("role", "tablist");
tabs.forEach((tab, index) => {
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", tab.hash.slice(1));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === " ") tab.click();
    if (step) tabs[(index + step + tabs.length) % tabs.length].focus();
    if (step || event.key === " ") event.preventDefault();
  });
});
panels.forEach((panel) => {
  panel.setAttribute("role", "tabpanel");
  panel.setAttribute("aria-labelledby", `tab-${panel.id}`);
});

// Runs

async function openRun(key) {
  const run = byId(key);
  if (!run) return;
  byId("dialog-title").textContent = [...run.querySelectorAll("summary > span")].slice(0, 3).map((part) => part.textContent.trim().replace(/\s+/g, " ")).join(", ");
  const body = byId("dialog-body");
  body.replaceChildren(...[...run.querySelector(".record").cloneNode(true).childNodes]);
  body.insertAdjacentHTML("beforeend", await decompress(key));
  byId("dialog").showModal();
  byId("dialog").scrollTop = 0;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#run-"]');
  const summary = event.target.closest(".run > summary");
  if (!link && !summary) return;
  event.preventDefault();
  openRun(link ? link.hash.slice(1) : summary.parentElement.id);
});
byId("dialog-close").addEventListener("click", () => byId("dialog").close());
byId("dialog").addEventListener("click", (event) => { if (event.target === byId("dialog")) byId("dialog").close(); });

if (byId("find-run")) {
  const runs = [...document.querySelectorAll(".run")].map((run) => ({ run, text: `${run.querySelector("summary").textContent} ${run.querySelector(".path").textContent}`.toLowerCase() }));
  byId("find-run").addEventListener("input", () => {
    const words = byId("find-run").value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const item of runs) item.run.hidden = !words.every((word) => item.text.includes(word));
    byId("found-runs").textContent = `${runs.filter((item) => !item.run.hidden).length} of ${runs.length}`;
  });
}

// Theme: the choice is saved if the browser allows it; not every browser does so for files on disk.

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
  byId("theme").setAttribute("aria-pressed", String(name === "dark"));
  const article = document.querySelector(".panel.current .board.current");
  if (article) draw(article);
}

function savedTheme() {
  try { return localStorage.getItem("pruneboard-theme"); } catch { return null; }
}

const darkPreferred = matchMedia("(prefers-color-scheme: dark)");
setTheme(savedTheme() || (darkPreferred.matches ? "dark" : "light"));
darkPreferred.addEventListener("change", () => { if (!savedTheme()) setTheme(darkPreferred.matches ? "dark" : "light"); });
byId("theme").addEventListener("click", () => {
  setTheme(theme() === "dark" ? "light" : "dark");
  try { localStorage.setItem("pruneboard-theme", theme()); } catch { /* the choice is not saved */ }
});

// Navigation by the fragment of the URL

async function navigate() {
  const key = decodeURIComponent(location.hash.slice(1));
  const board = settings.boards.find((item) => item.key === key);
  if (board) {
    current[board.track] = key;
    await showPanel(board.track);
  } else if (panels.some((panel) => panel.id === key)) {
    await showPanel(key);
  } else if (key.startsWith("run-")) {
    await showPanel("runs");
    await openRun(key);
  } else if (!panels.some((panel) => panel.classList.contains("current"))) {
    await showPanel(settings.boards.length ? settings.boards[0].track : panels[0].id);
  }
}

window.addEventListener("hashchange", navigate);
navigate().then(() => { document.documentElement.dataset.ready = "yes"; });
