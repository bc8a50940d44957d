"""Initial weights: which tensors are copied, which may stay random, and the normalisation that comes with them."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.errors import InputError
from tests.support import tiny
from tests.support.published import random_weights, vgg_layers
from tests.support.torch_files import write
from training.checkpoint.checkpoint import TrainingPosition, load_checkpoint, write_checkpoint
from training.checkpoint.run_folder import check_init_options, find_checkpoint, list_checkpoints
from training.convert import main as convert
from training.loop.plan import use_checkpoint_normalisation
from training.network.openpose import OpenPose
from training.optim.ema import AVERAGE_PREFIX
from training.recipes import load_config, override_config
from training.weights.initial_weights import InitialWeights, apply_initial_weights

OTHER = ["model.mean=[1, 2, 3]", "model.std=[4, 5, 6]"]


def saved(path, config, parameters=None):
    network = OpenPose(config.model)
    write_checkpoint(path, parameters or network.get_parameters(), config, TrainingPosition(0, 0, "", 1))
    return load_checkpoint(path)


def values(network):
    return {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}


def test_every_tensor_is_copied(tmp_path):
    checkpoint = saved(tmp_path / "a.ckpt", tiny.recipe())
    network = OpenPose(tiny.recipe().model)
    messages = apply_initial_weights(network.get_parameters(), checkpoint, tiny.recipe().model, ())
    assert messages == [
        f"Initial weights from {tmp_path / 'a.ckpt'}: "
        "38 of 38 tensors: backbone 10 of 10, features 4 of 4, stages 24 of 24"
    ]
    for name, value in values(network).items():
        np.testing.assert_array_equal(value, checkpoint.tensors[name].asnumpy())


def test_the_moving_average_is_preferred(tmp_path):
    parameters = list(OpenPose(tiny.recipe().model).get_parameters())
    averages = [ms.Parameter(each + 1, name=AVERAGE_PREFIX + each.name) for each in parameters]
    checkpoint = saved(tmp_path / "a.ckpt", tiny.recipe(), [*parameters, *averages])
    network = OpenPose(tiny.recipe().model)
    apply_initial_weights(network.get_parameters(), checkpoint, tiny.recipe().model, ())
    for name, value in values(network).items():
        np.testing.assert_array_equal(value, checkpoint.tensors[AVERAGE_PREFIX + name].asnumpy())


def partial_checkpoint(tmp_path, *prefixes):
    parameters = [p for p in OpenPose(tiny.recipe().model).get_parameters() if p.name.startswith(prefixes)]
    return saved(tmp_path / "part.ckpt", tiny.recipe(), parameters)


def test_a_layer_stays_random_only_if_allowed(tmp_path):
    checkpoint, network = partial_checkpoint(tmp_path, "backbone", "stages.0"), OpenPose(tiny.recipe().model)
    before = values(network)
    with pytest.raises(InputError) as caught:
        apply_initial_weights(network.get_parameters(), checkpoint, tiny.recipe().model, ())
    assert str(caught.value) == (
        f"{checkpoint.path}: has 22 of 38 tensors: backbone 10 of 10, features 0 of 4, stages 12 of 24; "
        "features.0.conv to features.1.conv (4 tensors), stages.1.pafs.body.0.conv to stages.1.heatmaps.head "
        "(12 tensors) would stay random; to allow this, add --allow-missing features --allow-missing stages"
    )
    for name, value in values(network).items():
        np.testing.assert_array_equal(value, before[name])
    messages = apply_initial_weights(
        network.get_parameters(), checkpoint, tiny.recipe().model, ("features", "stages.1")
    )
    assert messages[1].startswith(
        "random, as allowed by --allow-missing: features.0.conv to features.1.conv (4 tensors), stages.1"
    )
    for name, value in values(network).items():
        expected = checkpoint.tensors[name].asnumpy() if name in checkpoint.tensors else before[name]
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("name", ["stage", "features.", "features.0.con", "", "stages.7"])
def test_an_unknown_part_is_refused(tmp_path, name):
    checkpoint = partial_checkpoint(tmp_path, "backbone")
    with pytest.raises(
        InputError, match=f"--allow-missing {name}: no such part of the network; expected backbone, features"
    ):
        apply_initial_weights(OpenPose(tiny.recipe().model).get_parameters(), checkpoint, tiny.recipe().model, (name,))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.stage_width=16",
            r"stages\.0\.pafs\.body\.0\.conv\.weight: shape \(8, 16, 3, 3\), "
            r"but the recipe's network has \(16, 16, 3, 3\) "
            r"\(model\.stage_width: 8 in the checkpoint, 16 in the recipe\)",
        ),
        (
            "model.feature_widths=[16, 24]",
            r"features\.1\.conv\.weight: shape \(16, 16, 3, 3\), .* "
            r"\(model\.feature_widths: \(16, 16\) in the checkpoint, \(16",
        ),
        (
            "model.stages=3",
            r"stages\.2.* would stay random "
            r"\(model\.stages: 2 in the checkpoint, 3 in the recipe\); to allow this, add",
        ),
        (
            "model.batch_norm=true",
            r"would stay random \(model\.batch_norm: False in the checkpoint, True in the recipe\)",
        ),
    ],
)
def test_the_message_names_the_differing_field(tmp_path, override, message):
    checkpoint = saved(tmp_path / "a.ckpt", tiny.recipe())
    model = override_config(tiny.recipe(), [override]).model
    with pytest.raises(InputError, match=message):
        apply_initial_weights(OpenPose(model).get_parameters(), checkpoint, model, ())


def test_tensors_of_another_shape_may_stay_random_if_allowed(tmp_path):
    checkpoint = saved(tmp_path / "a.ckpt", tiny.recipe())
    model = override_config(tiny.recipe(), ["model.stage_width=16"]).model
    messages = apply_initial_weights(OpenPose(model).get_parameters(), checkpoint, model, ("stages",))
    assert "backbone 10 of 10, features 4 of 4, stages " in messages[0]
    assert "random, as allowed by --allow-missing: stages.0.pafs.body.0.conv to stages.1" in messages[1]


def test_normalisation_comes_from_the_weights(tmp_path):
    config, learnt = tiny.recipe(), override_config(tiny.recipe(), OTHER)
    assert use_checkpoint_normalisation(config, config, tmp_path) == (config, [])
    mixed, messages = use_checkpoint_normalisation(config, learnt, tmp_path / "a.ckpt")
    assert (mixed.model, mixed.training) == (learnt.model, config.training)
    assert messages == [
        f"normalisation of {tmp_path / 'a.ckpt'} is used: model.mean 1 2 3, model.std 4 5 6 "
        "(recipe: 127.5 127.5 127.5 and 255 255 255)"
    ]


def test_files_without_initial_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.ckpt: no such file; expected a checkpoint, or a run folder"):
        check_init_options(tmp_path / "a.ckpt", (), resuming=False)
    check_init_options(tmp_path / "a.ckpt", (), resuming=True)
    with pytest.raises(InputError, match="--allow-missing stages: requires --init"):
        check_init_options(None, ("stages",), resuming=False)
    (tmp_path / "a.pth").write_bytes(b"\x80\x02.")
    with pytest.raises(
        InputError, match=r"to convert published weights: python -m training\.convert .*a\.pth --out FILE\.ckpt"
    ):
        InitialWeights(tmp_path / "a.pth").load()


def start_from(path, shards, out, *, resume=False, allow_missing=(), overrides=(), **training):
    config = override_config(tiny.recipe(**training), overrides)
    return tiny.train_in_process(config, shards, out, resume=resume, init=InitialWeights(path, allow_missing))


def test_a_run_starts_from_initial_weights_and_resumes(tiny_shards, tmp_path, capfd):
    """The normalisation is copied, optimizer and step are not; the moving average starts from the weights."""
    checkpoint = saved(tmp_path / "a.ckpt", override_config(tiny.recipe(), OTHER))
    run = tmp_path / "run"
    training = {"max_steps": 1, "lr": 1e-9, "ema_decay": 0.5, "warmup_steps": 0}
    assert start_from(checkpoint.path, tiny_shards, run, **training) == 0
    messages = capfd.readouterr().err
    assert "model.mean 1 2 3" in messages
    assert f"Initial weights from {checkpoint.path}: 38 of 38 tensors" in messages
    first = load_checkpoint(find_checkpoint(run))
    assert first.step == 1
    assert first.config.model.mean == (1, 2, 3) == load_config(run / "config.yaml").model.mean
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_allclose(first.tensors[name].asnumpy(), tensor.asnumpy(), atol=1e-7)
        np.testing.assert_allclose(first.tensors[AVERAGE_PREFIX + name].asnumpy(), tensor.asnumpy(), atol=1e-7)
    checkpoint.path.unlink()
    assert start_from(checkpoint.path, tiny_shards, run, resume=True, **training | {"max_steps": 2}) == 0
    config = tiny.recipe(**training | {"max_steps": 3})
    assert tiny.train_in_process(config, tiny_shards, run, resume=True) == 0
    messages = capfd.readouterr().err
    assert "Resuming after step 2" in messages
    assert "Initial weights" not in messages
    last = load_checkpoint(find_checkpoint(run))
    assert (last.step, last.config.model.mean) == (3, (1, 2, 3))


def test_refused_initial_weights_leave_no_run_folder(tiny_shards, tmp_path):
    checkpoint = partial_checkpoint(tmp_path, "backbone")
    with pytest.raises(InputError, match="add --allow-missing features --allow-missing stages"):
        start_from(checkpoint.path, tiny_shards, tmp_path / "run")
    assert not list_checkpoints(tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_training_with_the_converted_backbone_of_torchvision(tiny_shards, tmp_path):
    """The backbone is frozen, so training must not change it."""
    weights = random_weights(vgg_layers("features"))
    source, converted = write(tmp_path / "vgg19.pth", weights, "legacy"), tmp_path / "vgg19.ckpt"
    assert CliRunner().invoke(convert, [str(source), "--out", str(converted)]).exit_code == 0
    how = {"overrides": ["model.backbone=vgg19"], "max_steps": 1, "batch_size": 2, "freeze_backbone_steps": 1}
    with pytest.raises(InputError, match="would stay random; to allow this, add --allow-missing features --allow-m"):
        start_from(converted, tiny_shards, tmp_path / "run", **how)
    assert start_from(converted, tiny_shards, tmp_path / "run", allow_missing=("features", "stages"), **how) == 0
    trained = load_checkpoint(find_checkpoint(tmp_path / "run"))
    assert trained.config.model.mean == pytest.approx((103.53, 116.28, 123.675))
    found = trained.tensors["backbone.0.conv.weight"].asnumpy()
    np.testing.assert_array_equal(found, weights["features.0.weight"][:, ::-1])
    np.testing.assert_array_equal(trained.tensors["backbone.12.conv.bias"].asnumpy(), weights["features.21.bias"])
