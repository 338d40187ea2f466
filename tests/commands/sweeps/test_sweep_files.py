"""The sweep files: what they ask for, what it is called, and that all of it can be built."""

import itertools
import random
from pathlib import Path

import pytest
import yaml

from commands.runs.prepare import prepare
from commands.sweeps.sweep_file import (
    read_arguments,
    read_sweep,
    setting_arguments,
    setting_name,
    values_of,
)
from lightning_modules.finetuning import configure_finetuning

SHIPPED = sorted(Path("configs/sweeps").glob("*.yaml"))


def _write(path, **changes):
    content = yaml.safe_load(Path("configs/sweeps/mctl_text.yaml").read_text())
    path.write_text(yaml.safe_dump(content | changes))
    return path


@pytest.mark.slow
def test_the_nine_networks_of_table_1_pair_depth_with_filters(write_cohort):
    settings = list(read_sweep("configs/sweeps/mctl_table1.yaml").settings())
    table = write_cohort(6)
    given = ["-cconfigs/finetune.yaml", f"--data.table={table}"]
    networks = set()
    for setting in settings:
        model = prepare("finetune", [*given, *setting_arguments(setting)]).config.model
        networks.add(tuple(model.init_args[name] for name in ("depth", "filters", "nodes")))
    pairs = ((1, 16), (2, 32), (3, 64))
    assert networks == {(*pair, nodes) for pair in pairs for nodes in (16, 32, 64)}
    assert len(settings) == 9


def test_the_27_networks_of_the_text_vary_freely():
    settings = [tuple(s.values()) for s in read_sweep("configs/sweeps/mctl_text.yaml").settings()]
    assert settings == list(itertools.product("123", ("16", "32", "64"), ("16", "32", "64")))


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_whatever_a_shipped_sweep_can_ask_for_is_built(path, write_cohort, tmp_path):
    sweep = read_sweep(path)
    table = write_cohort(10)
    given = ["-cconfigs/finetune.yaml", f"--data.table={table}", "--trainer.accelerator=cpu"]
    given += ["--data.preprocessing.spatial_shape=[12,12,12]", "--trainer.logger=false"]
    settings = list(sweep.settings()) if sweep.method == "grid" else list(_corners_and_draws(sweep))
    assert len({setting_name(setting) for setting in settings}) == len(settings)
    for setting in settings:
        run = prepare("finetune", [*given, *setting_arguments(setting)])
        trainer, model, _ = run.build(run.fold_runs[0])
        for key, text in setting.items():
            if key != "config":
                value = run.config.get(key) or _nested(run.config, key)
                assert type(value)(yaml.safe_load(text)) == value, key
        configure_finetuning(  # refuses a strategy under which a layer would never learn
            model.head.parameters(),
            model.encoder,
            model.finetuning,
            lr=model.hparams["lr"],
            encoder_lr_factor=model.hparams["encoder_lr_factor"],
            weight_decay=model.hparams["weight_decay"],
            max_epochs=trainer.max_epochs,
            num_steps=100,
        )


def _nested(config, key):
    part, _, rest = key.partition(".")
    value = config[part].init_args
    for name in rest.split("."):
        value = value[name]
    return value


def _corners_and_draws(sweep):
    ends = {
        key: values_of(space) if "values" in space else [str(space["min"]), str(space["max"])]
        for key, space in sweep.parameters.items()
    }
    yield {key: texts[0] for key, texts in ends.items()}
    yield {key: texts[-1] for key, texts in ends.items()}
    for seed in range(6):
        chooser = random.Random(seed)
        yield {key: chooser.choice(texts) for key, texts in ends.items()}
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(8):
        yield sweep.setting_of(study.ask(sweep.distributions()).params)


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_wandb_takes_every_shipped_sweep(path):
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
    from wandb.sdk.launch.sweeps.utils import create_sweep_command

    content = yaml.safe_load(path.read_text())
    filled = _validate_config_and_fill_distribution(content)
    for key, space in content["parameters"].items():
        if "min" in space:
            kind = type(read_sweep(path).distributions()[key]).__name__
            assert (filled["parameters"][key]["distribution"] == "int_uniform") == (
                kind == "IntDistribution"
            )
    assert create_sweep_command(content["command"])[-1] == "${args}"
    assert (Path(content["program"])).is_file()


@pytest.mark.slow
def test_a_setting_survives_the_way_through_wandbs_agent():
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    values = {"model.lr": 1e-05, "model.freeze_encoder": True, "config": "a/b.yaml", "x.y": 3}
    command = {"args": {key: {"value": value} for key, value in values.items()}}
    flags = create_sweep_command_args(command)["args"]
    here = {key: str(value) for key, value in values.items()}
    assert read_arguments(flags) == here
    assert setting_name(read_arguments(flags)) == setting_name(here)
    assert read_arguments(setting_arguments(here)) == here
    assert setting_arguments(here)[0] == "--config=a/b.yaml", "files must not override other keys"


def test_a_folder_is_named_in_words_where_they_are_short_and_safe():
    assert setting_name({"model.nodes": "32", "model.depth": "2"}) == "depth2-nodes32"
    assert setting_name({"config": "configs/sweeps/networks/deep.yaml", "a.b": "1"}) == "b1-deep"
    for text in ("1" * 60, "[1, 2]", "../x", "a b"):
        one, other = (setting_name({"a.b": value}) for value in (text, f"{text}0"))
        assert one != other
        assert one.isalnum()
        assert len(one) == 12


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "gird"}, "method is 'gird'"),
        ({"metric": {"name": "val/loss", "goal": "minimize"}}, "metric.name is 'val/loss'"),
        ({"metric": {"name": "cv/auroc", "goal": "up"}}, "maximize or minimize"),
        ({"parameters": {"model.init_ckpt": {"values": ["a", None]}}}, "may be null"),
        ({"parameters": {"model": {"parameters": {}}}}, "is nested"),
        ({"parameters": {"model.lr": {"min": 1}}}, "`min` and `max`"),
        ({"parameters": {"model.lr": {"min": 0, "max": 0.5}}}, "both be whole numbers"),
        ({"parameters": {"model.lr": {"min": 0.0, "max": 0.5, "distribution": "beta"}}}, "'beta'"),
        ({"parameters": None}, "no `parameters`"),
    ],
)
def test_a_sweep_file_that_cannot_be_followed_is_refused_in_one_line(tmp_path, changes, words):
    path = _write(tmp_path / "own.yaml", **changes)
    with pytest.raises(ValueError, match=r"own\.yaml") as caught:
        read_sweep(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_space_without_values_is_no_grid(tmp_path):
    path = _write(tmp_path / "own.yaml", parameters={"model.lr": {"min": 0.1, "max": 0.5}})
    with pytest.raises(ValueError, match="no list of values"):
        list(read_sweep(path).settings())
    with pytest.raises(ValueError, match="no sweep file"):
        read_sweep(tmp_path / "none.yaml")
