"""Settings: the flags, their limits, and how a bad one is refused."""

import dataclasses
import json

import pytest

from agents.cli import flag_table, parse_args
from agents.config import SettingError, TrainConfig, flag


def test_flags_set_fields():
    line = "--game montezuma_revenge --workers 3 --head linear --learning-rate 1e-4"
    config = parse_args([*line.split(), "--no-neurocoder-residual", "--fire-reset"])
    assert config.game == "MontezumaRevenge"
    assert (config.workers, config.head, config.learning_rate) == (3, "linear", 1e-4)
    assert config.neurocoder_residual is False
    assert config.fire_reset is True


@pytest.mark.parametrize("number", ["2e6", "2_000_000", "2000000.0"])
def test_whole_numbers_may_be_written_like_others(number):
    assert parse_args(["--total-timesteps", number]).total_timesteps == 2_000_000


def test_the_defaults_are_those_of_the_dataclass():
    assert parse_args([]) == TrainConfig()


@pytest.mark.parametrize(
    "argv",
    [
        ["--neurocoder-sharpness", "1"],
        ["--neurocoder-hidden-size", "65"],
        ["--no-neurocoder-residual"],
        ["--no-neurocoder-usage-attention"],
    ],
)
def test_what_the_authors_layers_fix_cannot_be_chosen_beside_them(argv):
    settings = vars(parse_args(argv))
    with pytest.raises(SettingError, match=argv[0].replace("--no-", "--")) as error:
        TrainConfig(**settings | {"neurocoder_readings": "authors-single-step"})
    assert "authors-single-step" in str(error.value)


@pytest.mark.parametrize("spec", dataclasses.fields(TrainConfig), ids=lambda spec: spec.name)
def test_every_field_has_help_and_a_group(spec):
    assert spec.metadata["help"]
    assert spec.metadata["group"]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--game", "Frostbit"], ["--game", "Frostbit", "Frostbite"]),
        (["--game", "combat"], ["--game", "combat"]),
        (["--workers", "-1"], ["--workers", "-1", "0", "1024"]),
        (["--workers", "many"], ["--workers", "many is not a whole number"]),
        (["--workers", "1.5"], ["--workers", "1.5 is not a whole number"]),
        (["--workers", "inf"], ["--workers", "inf is not a whole number"]),
        (["--learning-rate", "nan"], ["--learning-rate", "nan", "finite"]),
        (["--learning-rate", "0"], ["--learning-rate", "0", "above"]),
        (["--head", "quadratic"], ["--head", "quadratic", "neurocoder"]),
        (["--neurocoder-least-used", "21"], ["--neurocoder-least-used", "21", "20"]),
        (["--learning-rate", "1e300"], ["--learning-rate", "1e+300", "1"]),
        (["--learner", "gpu"], ["--learner", "gpu", "worker, cpu, cuda or cuda:N"]),
        (["--learner", "cuda:-1"], ["--learner", "cuda:-1", "cuda:N"]),
        (["--learner-batch", "0"], ["--learner-batch", "1"]),
        (["--optimizer-eps", "1e-300"], ["--optimizer-eps", "1e-300", "1e-12"]),
        (["--actor-gain", "1e300"], ["--actor-gain"]),
        (["--neurocoder-sharpness", "1e300"], ["--neurocoder-sharpness"]),
        (["--total-timesteps", "0"], ["--total-timesteps", "0"]),
        (["--run-dir", ""], ["--run-dir"]),
        (["--run-dir", "a\0b"], ["--run-dir", "a\\x00b", "control"]),
        (["--run-dir", "a\nb"], ["--run-dir", "a\\nb", "control"]),
        (["--run-dir", "x" * 5000], ["--run-dir", "at most 4096"]),
        (["--resume", "a\0b"], ["--resume", "a\\x00b", "control"]),
        (["--resume", "runs\udcff"], ["--resume", "control"]),
        (["--game", "\x1b[2J"], ["--game", "\\x1b[2J"]),
        (["--game", "Pong" * 30], ["--game", "at most 100"]),
        (["--workers", "9" * 4000], ["--workers", "999 ... 999", "1024"]),
        (["--workers", "9" * 5000], ["--workers", "999 ... 999"]),
        (["--learning-rate", "1e999"], ["--learning-rate", "inf", "finite"]),
        (["--col\nour"], ["--col\\nour"]),
        (["--colour", "red"], ["--colour"]),
        (["--work", "3"], ["--work"]),
    ],
)
def test_a_bad_value_gives_one_line_that_names_it_and_exit_code_2(argv, named, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(argv)
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.count("\n") == 1
    for word in named:
        assert word in message


@pytest.mark.parametrize(
    "values",
    [{"workers": 2.0}, {"workers": True}, {"gamma": "high"}, {"head": 3}, {"gamma": 10**400}],
)
def test_a_value_of_the_wrong_type_is_refused(values):
    (name,) = values
    with pytest.raises(SettingError, match=flag(name)):
        TrainConfig(**values)


def test_settings_survive_json():
    config = TrainConfig(game="Pong", learning_rate=3e-4)
    assert TrainConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize("end", ["low", "high"])
def test_every_setting_of_the_environment_is_one_that_the_emulator_takes(end):
    specs = [s for s in dataclasses.fields(TrainConfig) if s.metadata["group"] == "environment"]
    values = {s.name: s.metadata[end] for s in specs if end in s.metadata}
    assert {"frame_skip", "sticky_actions", "noop_max", "max_frames"} == set(values)
    assert vars(TrainConfig(**values).env).items() >= values.items()


def test_the_table_has_a_row_for_every_flag():
    table = flag_table()
    for spec in dataclasses.fields(TrainConfig):
        assert f"`{flag(spec.name)}" in table
