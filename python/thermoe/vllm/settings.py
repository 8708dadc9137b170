"""What the plug-in is told: a YAML file and environment variables."""

import dataclasses
import os
import typing

from ..errors import InvalidArgument

PREFIX = "THERMOE_VLLM_"
_FILE = PREFIX + "CONFIG"
_KINDS = {float: "a number", int: "a whole number", str: "text"}
_LARGE_BATCHES = ("prices", "top-k")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A key of the YAML file; as a variable, THERMOE_VLLM_ and its name in capitals, which goes before the file."""

    power_cap_w: float | None = None  # of each board
    temperature_cap_c: float | None = None  # of each die
    step_latency_target_us: float | None = None  # of a decode step, start to start
    max_open_price: float = 0.25  # ceiling of an expert's opening price; bounds the loss
    open_price: float | None = None  # fixed prices instead: nothing governs
    slope_price: float | None = None
    large_batches: str = "prices"  # of over 256 tokens: each token alone at prices, or left to vLLM ("top-k")
    monitor: str = "auto"  # of telemetry: the worker's own GPU; "twin", "replay:FILE", "none"
    profile: str | None = None  # of costs: a file of data/profiles; None: the H100's
    interval_s: float = 0.2  # of the price loop
    decode_tokens: int = 16  # of a decode step, for which an expert's opening is weighed against its tokens
    agree_steps: int = 16  # forward passes from one agreement on prices to the next
    report: str | None = None  # a file to which each rank writes its report: "{rank}" stands for its number

    def __post_init__(self):
        for name in ("power_cap_w", "temperature_cap_c", "step_latency_target_us", "max_open_price", "interval_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidArgument(f"{name} is {value}: it must be positive and finite")
        for name in ("open_price", "slope_price"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InvalidArgument(f"{name} is {value}: it must be 0 or more, and finite")
        for name in ("decode_tokens", "agree_steps"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.large_batches not in _LARGE_BATCHES:
            raise InvalidArgument(f"large_batches is {self.large_batches!r}: known are {', '.join(_LARGE_BATCHES)}")
        if self.fixed and self.governed:
            raise InvalidArgument("give limits (power_cap_w, temperature_cap_c, step_latency_target_us) or fixed "
                                  "prices (open_price, slope_price), not both")

    @property
    def fixed(self):
        return self.open_price is not None or self.slope_price is not None

    @property
    def governed(self):
        return any(v is not None for v in (self.power_cap_w, self.temperature_cap_c, self.step_latency_target_us))


_FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


def _converted(name, value, where):
    """A setting of its own type: numbers come as text from the environment."""
    kinds = typing.get_args(_FIELDS[name].type) or (_FIELDS[name].type,)
    if value is None and type(None) in kinds:
        return None
    try:
        if isinstance(value, (bool, list, dict)):
            raise ValueError
        return kinds[0](value)
    except (TypeError, ValueError):
        raise InvalidArgument(f"{where}: {name} is {value!r}: {_KINDS[kinds[0]]} was expected") from None


def _known(name, where):
    if name not in _FIELDS:
        raise InvalidArgument(f"{where}: {name} is no setting: known are {', '.join(_FIELDS)}")


def _of_file(path):
    import yaml  # vLLM brings it

    try:
        with open(path, encoding="utf-8") as file:
            given = yaml.safe_load(file)
    except OSError as error:
        raise InvalidArgument(f"{_FILE}: {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InvalidArgument(f"{_FILE}: {path} is no YAML: {error}") from error
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidArgument(f"{_FILE}: {path}: a mapping of settings was expected")
    for name in given:
        _known(name, path)
    return {name: _converted(name, value, path) for name, value in given.items()}


def from_environment(environment=os.environ):
    """The Settings, or None where no variable asks for the plug-in. Raises InvalidArgument naming what is wrong."""
    given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    if not given:
        return None
    values = _of_file(given[_FILE]) if given.get(_FILE) else {}
    for variable, text in given.items():
        if variable == _FILE:
            continue
        name = variable[len(PREFIX):].lower()
        _known(name, variable)
        values[name] = _converted(name, text, variable)
    return Settings(**values)
