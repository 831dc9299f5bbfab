"""The installed pruners: the entry points of the group `pruneboard.pruners`, read with the package `entrypoints`.

`installed` and `find` import no plugin, so that a broken distribution affects neither `pruneboard list` nor other
methods. `load` imports a pruner's class and checks it; `build` creates an instance with its options.
"""

from __future__ import annotations

import configparser
import dataclasses
import inspect
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import entrypoints

from pruneboard.coerce import convert
from pruneboard.errors import PluginError, UnknownNameError, UsageError, described
from pruneboard.spec import DISTRIBUTION_NAME, DISTRIBUTION_NAME_NOUN, METHOD_NAME, METHOD_NAME_NOUN

if TYPE_CHECKING:  # the interface needs torch, and listing what is installed must not
    from pruneboard.api import Pruner

GROUP = "pruneboard.pruners"

NOT_INSTALLED = "(not installed)"
"""Version of a class that was given as `module:Class` instead of a method name."""


@dataclass(frozen=True, order=True)
class PrunerInfo:
    """Where a pruner comes from.

    Attributes:
        name: the method's name, that of the entry point.
        distribution: the distribution that provides it.
        version: the version of that distribution, or `NOT_INSTALLED`.
        target: the class, as `module:attribute`.
    """

    name: str
    distribution: str
    version: str
    target: str

    @property
    def origin(self) -> str:
        """The origin of the pruner as messages show it."""
        return f"{self.name!r} of {self.distribution} {self.version} ({self.target})"

    @property
    def name_problem(self) -> str | None:
        """Why this pruner cannot be used under its name, or None if it can."""
        if not METHOD_NAME.fullmatch(self.name):
            return f"has a name that is not allowed, {self.name!a}: a method's name is made of {METHOD_NAME_NOUN}"
        if not DISTRIBUTION_NAME.fullmatch(self.distribution):
            found, allowed = ascii(self.distribution), DISTRIBUTION_NAME_NOUN
            return f"is from a distribution whose name is not allowed, {found}: it is made of {allowed}"
        return None


def installed() -> list[PrunerInfo]:
    """Return every registered pruner, sorted; a name that two distributions claim is listed twice.

    Raises:
        PluginError: the entry points of an installed distribution cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about a malformed line in some distribution's metadata
        try:
            found = entrypoints.get_group_all(GROUP)
        except (configparser.Error, UnicodeDecodeError) as error:
            raise PluginError(
                f"the entry points of {_unreadable()} cannot be read: {_one_line(error)}; fix or uninstall it"
            ) from error
    return sorted({_info(point) for point in found})


def _unreadable() -> str:
    """Return the name and version of the first distribution whose entry points cannot be read."""
    for distribution in metadata.distributions():
        if not _readable(distribution):
            return f"{distribution.metadata['Name']} {distribution.version}"
    return "an installed distribution"  # one that only `entrypoints` finds, such as an egg file


def _readable(distribution: metadata.Distribution) -> bool:
    try:
        text = distribution.read_text("entry_points.txt") or ""
        entrypoints.CaseSensitiveConfigParser(delimiters=("=",)).read_string(text)
    except (configparser.Error, UnicodeDecodeError):
        return False
    return True


def _info(point: Any) -> PrunerInfo:
    distribution = point.distro.name
    # The *.egg-info folder of a source tree, which Python finds first when started there, has no version in its name.
    version = point.distro.version or _metadata_version(distribution)
    return PrunerInfo(point.name, distribution, version, f"{point.module_name}:{point.object_name}")


def _metadata_version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def find(name: str) -> PrunerInfo:
    """Return the pruner registered as `name`, without importing it.

    Raises:
        UnknownNameError: no pruner has that name.
        PluginError: two distributions claim it, or the name is not allowed.
    """
    known = installed()
    matches = [info for info in known if info.name == name]
    if not matches:
        usable = (info.name for info in known if not info.name_problem)
        raise UnknownNameError("method", name, usable, "`pruneboard list` shows what is installed")
    if len(matches) > 1:
        claims = " and ".join(f"{info.distribution} {info.version} ({info.target})" for info in matches)
        raise PluginError(f"method {name!r} is claimed by {claims}: uninstall one of them")
    if matches[0].name_problem:
        raise _unusable(matches[0], matches[0].name_problem)
    return matches[0]


def from_target(target: str) -> PrunerInfo:
    """Return a pruner that is not installed, given as `module:Class`, without importing it.

    The current folder is appended to `sys.path`, so that a module in it is found.

    Raises:
        UsageError: `target` is not of that form.
    """
    module, _, name = target.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise UsageError(f"a class is given as MODULE:CLASS, such as my_pruner:Mine; found {target!r}")
    here = str(Path.cwd())
    if here not in sys.path:  # last, so that a folder cannot hide an installed package of the same name
        sys.path.append(here)
    return PrunerInfo(name, module, NOT_INSTALLED, target)


def load(info: PrunerInfo) -> type[Pruner[Any]]:
    """Import the class behind `info` and check that it is a pruner.

    Raises:
        PluginError: the import fails, or the object is not a frozen, concrete `Pruner` dataclass with resolvable
            annotations; the message names the distribution, the object and the remedy.
    """
    from pruneboard.api import Pruner

    module, _, attribute = info.target.partition(":")
    point = entrypoints.EntryPoint(info.name, module, attribute)
    try:
        cls = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a third-party module may raise anything, also SystemExit
        raise _unusable(info, f"cannot be imported: {type(error).__name__}: {_one_line(error)}") from error
    if not (inspect.isclass(cls) and issubclass(cls, Pruner)):
        raise _unusable(info, f"is not a subclass of pruneboard.api.Pruner but {_one_line(repr(cls))}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise _unusable(info, f"does not define {missing}")
    if not is_frozen(cls):
        raise _unusable(info, "is not decorated with @dataclass(frozen=True, kw_only=True)")
    try:
        option_types(cls)
    except PluginError as error:
        raise _unusable(info, f"has options that cannot be read: {error}") from error
    return cls


def problem(info: PrunerInfo) -> str | None:
    """Import the pruner behind `info`; return in one line why it cannot be used, or None if it can."""
    try:
        load(find(info.name))
    except PluginError as error:
        return str(error)
    return None


def _unusable(info: PrunerInfo, reason: str) -> PluginError:
    remedy = "fix it" if info.version == NOT_INSTALLED else f"fix or uninstall {info.distribution}"
    return PluginError(f"method {info.origin} {reason}; {remedy}")


def _one_line(error: object) -> str:
    return " ".join((described(error) if isinstance(error, BaseException) else str(error)).split())


def is_frozen(cls: type) -> bool:
    """Return whether `cls` itself, and not only one of its bases, is decorated as a frozen dataclass."""
    own = "__dataclass_params__" in cls.__dict__
    return own and bool(cls.__dict__["__dataclass_params__"].frozen)


def option_types(cls: type[Pruner[Any]]) -> dict[str, Any]:
    """Return name -> type of a pruner's options: its fields except `sparsity`.

    Raises:
        PluginError: an annotation names something that does not exist at run time, such as an import under
            `if TYPE_CHECKING`.
    """
    try:
        hints = get_type_hints(cls)
    except Exception as error:
        raise PluginError(
            f"the annotations of {cls.__module__}:{cls.__qualname__} cannot be resolved: {_one_line(error)}; "
            "import what they name outside TYPE_CHECKING"
        ) from error
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init and f.name != "sparsity"}


def build(info: PrunerInfo, sparsity: float | None, options: Mapping[str, object]) -> Pruner[Any]:
    """Load a pruner and create an instance with its options.

    Args:
        info: where the pruner comes from.
        sparsity: fraction of zeros; None only for a control that needs none.
        options: option -> value, or its text.

    Raises:
        PluginError: the class cannot be loaded or instantiated.
        UnknownNameError: the method has no such option.
        UsageError: an option has the wrong type or value, or the sparsity is missing.
    """
    cls = load(info)
    types = option_types(cls)
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in types:
            raise UnknownNameError(f"option of method {info.name!r}:", name, types)
        values[name] = convert(value, types[name], f"option {name} of method {info.name!r}")
    if sparsity is not None:
        values["sparsity"] = sparsity
    elif takes_sparsity(cls):
        raise UsageError(f"method {info.name!r} needs a sparsity: add --sparsity, a fraction of zeros such as 0.9")
    try:
        pruner = cls(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"method {info.name!r}: {_one_line(error)}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _unusable(info, f"cannot be built: {type(error).__name__}: {_one_line(error)}") from error
    if sparsity is not None and pruner.sparsity != sparsity:
        raise _unusable(info, f"replaces the sparsity {sparsity} by {_one_line(repr(pruner.sparsity))}")
    return pruner


def takes_sparsity(cls: type[Pruner[Any]]) -> bool:
    """Return whether a pruner requires a sparsity; a control that prunes nothing does not."""
    (item,) = (f for f in dataclasses.fields(cls) if f.name == "sparsity")
    return item.default is dataclasses.MISSING
