// Charts: the templates of report/charts.py, filled with the selected board. Texts are only passed as data.

const settings = JSON.parse(document.getElementById("settings").textContent);

function theme() {
  return document.documentElement.dataset.theme === "dark" ? "dark" : "light";
}

/** Same as `fill` in report/charts.py, but without legends: the page has its own. */
function fill(template, datasets, styles, ticks) {
  const spec = structuredClone(template);
  const ranges = {
    color: styles.map((style) => style[theme()]),
    strokeDash: styles.map((style) => style.dash),
    shape: styles.map((style) => style.shape),
  };
  for (const layer of spec.layer) {
    for (const [channel, range] of Object.entries(ranges)) {
      const encoding = layer.encoding[channel];
      if (encoding && encoding.field === "method") {
        encoding.scale = { domain: styles.map((style) => style.name), range };
        encoding.legend = null;
      }
    }
    const across = layer.encoding.x;
    if (across && ticks[across.field]) across.axis.values = ticks[across.field];
  }
  return Object.assign(spec, { datasets, config: settings.config[theme()] });
}

function embed(element, spec) {
  return vegaEmbed(element, spec, { mode: "vega-lite", actions: false, renderer: "svg", ast: true, defaultStyle: false, logLevel: 1, tooltip: { theme: "custom" } });
}

/** Limit the y axis to five points below dense. Marks outside are clipped. */
function zoom(spec, points, y) {
  const dense = points.dense[0];
  if (!dense) return;
  const tops = points.cells.map((cell) => cell.top1).concat(dense.top1);
  const above = Math.max(...tops.map((top) => top - dense.top1), 0) + 0.5;
  const domain = y === "drop" ? [-above, 5] : [dense.top1 - 5, dense.top1 + above];
  for (const layer of spec.layer) {
    layer.mark.clip = true;
    const axis = layer.encoding.y;
    if (axis && axis.field) axis.scale = Object.assign({}, axis.scale, { domain, nice: false, padding: 0, zero: false });
  }
}

function chartState(article) {
  const value = (name) => article.querySelector(`[data-axis="${name}"]`);
  const checked = (name) => Boolean(value(name) && value(name).checked);
  const hidden = [...article.querySelectorAll('.legend button[aria-pressed="false"]')].map((button) => button.dataset.method);
  return { x: value("x").value, y: value("y").value, zoom: checked("zoom"), seeds: checked("seeds"), literature: checked("literature"), hidden: new Set(hidden) };
}

async function drawChart(article, data) {
  const plot = article.querySelector(".plot");
  const state = chartState(article);
  const points = {};
  for (const [name, list] of Object.entries(data.points)) {
    points[name] = name === "literature" ? list : list.filter((point) => !state.hidden.has(point.method));
  }
  points.seeds = state.seeds ? points.cells : [];
  if (!state.literature) points.literature = [];
  const spec = fill(settings.charts[`${state.x} ${state.y}`], points, data.styles.filter((style) => style.control !== "dense"), data.ticks);
  if (state.zoom) zoom(spec, data.points, state.y);
  Object.assign(spec, { width: "container", height: window.innerWidth < 500 ? 300 : 400, autosize: { type: "fit-x", contains: "padding" } });
  spec.description = `${article.querySelector(".board-title").textContent.trim()}: ${state.y} against ${state.x}`;
  plot.classList.add("drawn");
  await embed(plot, spec);
  plot.dataset.axes = `${state.x} ${state.y}`;
}

/** Return one mark per layer and method at one operating point. */
function layerCells(group, point) {
  return point.rows.flatMap((row) => row.kept.map((kept, index) => ({ method: row.method, layer: group.layers[index], weights: group.weights[index], kept })));
}

async function drawLayers(article, data) {
  const section = article.querySelector(".layers");
  const select = section.querySelector("select");
  const maps = data.layers.flatMap((group) => group.points.map((point) => ({ group, point })));
  if (!maps.length) return;
  section.hidden = false;
  if (!select.options.length) maps.forEach((map, index) => select.append(new Option(map.point.point, index)));
  const { group, point } = maps[Number(select.value)];
  const spec = fill(settings.layers, { layers: layerCells(group, point) }, [], {});
  const step = Math.max(14, Math.min(60, Math.floor((section.clientWidth - 220) / group.layers.length)));
  Object.assign(spec, { width: { step }, height: { step: 22 } });
  await embed(section.querySelector(".layer-map"), spec);
}
