"""Converting published weights: names, channels, normalisation, and the same maps as the original network."""

from __future__ import annotations

import json

import mindspore as ms
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.errors import InputError
from pipeline.skeleton import KEYPOINTS, LIMBS
from tests.support.published import cmu_forward, cmu_layers, convolve, random_weights, vgg_layers
from tests.support.torch_files import write
from training import convert as command
from training.checkpoint.checkpoint import load_checkpoint
from training.config import ModelConfig
from training.convert import convert_file, network_shapes
from training.weights.conversion import EPSILON, convert_weights
from training.weights.published_names import PUBLISHED_NETWORKS, strip_wrapper_prefixes
from training.weights.stored_tensor import StoredTensor

IMAGENET = {"mean": (103.53, 116.28, 123.675), "std": (57.375, 57.12, 58.395)}

POSE_COCO_PAIRS = "1,2 1,5 2,3 3,4 5,6 6,7 1,8 8,9 9,10 1,11 11,12 12,13 1,0 0,14 14,16 0,15 15,17 2,16 5,17"
POSE_MAP_INDEX = (
    "12,13 20,21 14,15 16,17 22,23 24,25 0,1 2,3 4,5 6,7 8,9 10,11 28,29 30,31 34,35 32,33 36,37 18,19 26,27"
)
"""Limbs and their channels in CMU's COCO model, from src/openpose/pose/poseParameters.cpp."""


def test_the_paf_channels_have_the_order_of_cmu():
    pairs, channels = (
        [[int(n) for n in pair.split(",")] for pair in each.split()] for each in (POSE_COCO_PAIRS, POSE_MAP_INDEX)
    )
    assert len(pairs) == len(LIMBS)
    for (start, end), (x, y) in zip(pairs, channels, strict=True):
        assert y == x + 1
        assert LIMBS[x // 2] == (KEYPOINTS[start], KEYPOINTS[end])


def loaded(array):
    return StoredTensor(array.shape, lambda: array)


@pytest.fixture(scope="module")
def cmu(tmp_path_factory):
    """CMU's network of two stages with random weights: published file, checkpoint, output, image and expected maps."""
    folder = tmp_path_factory.mktemp("cmu")
    weights = random_weights((name, shape) for _, name, shape in cmu_layers(stages=2))
    image = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
    source = write(folder / "body_pose_model.pth", weights, "legacy")
    result = run(source, "--out", folder / "cmu.ckpt")
    assert result.exit_code == 0, result.output
    return source, folder / "cmu.ckpt", result.output, image, cmu_forward(weights, image, stages=2)


def run(*arguments):
    return CliRunner().invoke(command.main, [str(argument) for argument in arguments])


def test_cmus_network_is_recognised(cmu):
    source, out, output, *_ = cmu
    assert output.splitlines() == [
        "cmu, 72 of 72 tensors: backbone 20 of 20, features 4 of 4, stages 48 of 48",
        "normalisation of BGR values from 0 to 255: mean 128 128 128, std 256 256 256",
        str(out),
    ]
    assert sorted(path.name for path in out.parent.iterdir()) == [source.name, out.name]
    checkpoint = load_checkpoint(out)
    assert checkpoint.step == 0
    model = checkpoint.config.model
    assert (model.stages, model.mean, model.std) == (2, (128.0,) * 3, (256.0,) * 3)
    assert network_shapes(model) == {name: tuple(each.shape) for name, each in checkpoint.tensors.items()}


def test_the_converted_network_has_the_maps_of_the_original(cmu):
    from evaluation.inference.backends import load_backend

    _, out, _, image, expected = cmu
    found = load_backend(out, "cpu").network(image[None])
    for one, other in zip(found, expected, strict=True):
        assert np.ptp(other) > 0.1
        np.testing.assert_allclose(one[0], other, atol=1e-4)


def test_an_exported_graph_has_the_maps_of_the_original(cmu, tmp_path):
    import onnxruntime

    from training.export import main

    _, out, _, image, expected = cmu
    graph = tmp_path / "cmu.onnx"
    options = ["--format", "onnx", "--height", "32", "--width", "48", "--batch", "1", "--device", "cpu"]
    result = CliRunner().invoke(main, ["--ckpt", str(out), *options, "--out", str(graph)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found = session.run(["pafs", "heatmaps"], {session.get_inputs()[0].name: image[None]})
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[0], other, atol=1e-4)
    described = json.loads((tmp_path / "cmu.onnx.json").read_text())
    assert (described["mean"], described["std"]) == ([128.0] * 3, [256.0] * 3)


def test_every_cmu_name_is_known_with_and_without_its_module():
    shapes = network_shapes(ModelConfig())
    for prefixed in (False, True):
        file = {}
        for module, name, shape in cmu_layers(stages=6):
            prefix = f"{module}." if prefixed else ""
            file |= {
                f"{prefix}{name}.weight": loaded(np.ones(shape, "f4")),
                f"{prefix}{name}.bias": loaded(np.ones(shape[0])),
            }
        converted = convert_weights(file, lambda _: shapes)
        assert converted.network.name == "cmu"
        assert converted.tensors.keys() == shapes.keys()
        assert not converted.unused


def modelzoo_names(norms):
    """Yield every convolution of the reference network and its shape."""
    for name, shape in vgg_layers("base.vgg_base.layers", norms):
        yield name, shape
    others = [each for each in cmu_layers(stages=6) if "_CPM" in each[1] or "Mconv" in each[1]]
    for module, name, shape in others:
        stage, _, branch = module.removeprefix("model").partition("_")
        if stage == "0":
            yield f"base.{name}", shape
        elif stage == "1":
            yield f"stage_1.{name.replace('conv5_', 'conv')}", shape
        else:
            yield f"stage_{stage}.{name.split('_')[0].removeprefix('M')}_L{branch}", shape


@pytest.mark.parametrize("norms", [False, True])
def test_every_name_of_the_reference_network_is_known(norms):
    shapes = network_shapes(ModelConfig())
    file = {"moments.network.base.conv4_3_CPM.weight": loaded(np.ones(3)), "learning_rate": loaded(np.ones(()))}
    for name, shape in modelzoo_names(norms):
        file |= {
            f"network.{name}.weight": loaded(np.ones(shape, "f4")),
            f"network.{name}.bias": loaded(np.ones(shape[0])),
        }
        if norms and name.startswith("base.vgg_base"):
            prefix, _, place = name.rpartition(".")
            for number in ("gamma", "beta", "moving_mean", "moving_variance"):
                file[f"network.{prefix}.{int(place) + 1}.{number}"] = loaded(np.ones(shape[0], "f4"))
    converted = convert_weights(file, lambda _: shapes)
    assert converted.network.name == "modelzoo-openpose"
    assert converted.tensors.keys() == shapes.keys()
    assert converted.unused == ["moments.network.base.conv4_3_CPM.weight", "learning_rate"]
    assert (converted.config.model.mean, converted.config.model.std) == ((127.5,) * 3, (255.0,) * 3)
    assert any("10 layers folded" in change for change in converted.changes) == norms


def tiny_shapes(_):
    """Tensor shapes of a network of 1x1 convolutions with 4 outputs."""
    shapes = {}
    for name, shape in network_shapes(ModelConfig(stages=1)).items():
        inputs = 3 if name == "backbone.0.conv.weight" else 4
        shapes[name] = (4, inputs, 1, 1) if len(shape) == 4 else (4,)
    return shapes


def tiny_vgg(prefix="features", norms=False, seed=0):
    """A VGG19 of these shapes, by torchvision's names."""
    rng = np.random.default_rng(seed)
    file = {}
    for name, (_, inputs, *_) in vgg_layers(prefix, norms):
        file[f"{name}.weight"] = rng.normal(size=(4, 3 if inputs == 3 else 4, 1, 1)).astype("f4")
        file[f"{name}.bias"] = rng.normal(size=4).astype("f4")
        if norms:
            norm = f"{prefix}.{int(name.rpartition('.')[2]) + 1}"
            file |= {
                f"{norm}.{each}": rng.uniform(0.5, 2, 4).astype("f4") for each in ("weight", "bias", "running_mean")
            }
            file[f"{norm}.running_var"] = rng.uniform(0.5, 2, 4).astype("f4")
            file[f"{norm}.num_batches_tracked"] = np.array(7)
    return file


def converted_vgg(file, kind=None):
    return convert_weights({name: loaded(array) for name, array in file.items()}, tiny_shapes, kind)


@pytest.mark.parametrize(("prefix", "kind"), [("features", "torchvision-vgg19"), ("layers", "modelzoo-vgg19")])
def test_a_vgg_for_rgb_is_converted_to_bgr(prefix, kind):
    """The first layer has the same output for RGB normalised by torchvision and BGR normalised by this project."""
    file = tiny_vgg(prefix)
    converted = converted_vgg(file)
    assert converted.network.name == kind
    assert len(converted.tensors) == 20
    model = converted.config.model
    assert {"mean": model.mean, "std": model.std} == {
        name: pytest.approx(numbers, rel=1e-6) for name, numbers in IMAGENET.items()
    }
    bgr = np.random.default_rng(3).integers(0, 256, (6, 5, 3)).astype("f4")
    rgb = (bgr[..., ::-1] / 255 - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    expected = convolve(rgb.transpose(2, 0, 1), file[f"{prefix}.0.weight"], file[f"{prefix}.0.bias"])
    ours = ((bgr - np.float32(model.mean)) / np.float32(model.std)).transpose(2, 0, 1)
    found = convolve(ours, *(converted.tensors[f"backbone.0.conv.{each}"] for each in ("weight", "bias")))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_batch_normalisation_is_folded():
    file = tiny_vgg(norms=True)
    converted = converted_vgg(file)
    x = np.random.default_rng(3).normal(size=(4, 6, 5)).astype("f4")
    raw = convolve(x, file["features.3.weight"], file["features.3.bias"])
    gamma, beta, mean, variance = (
        file[f"features.4.{name}"][:, None, None] for name in ("weight", "bias", "running_mean", "running_var")
    )
    expected = (raw - mean) / np.sqrt(variance + EPSILON) * gamma + beta
    found = convolve(x, *(converted.tensors[f"backbone.1.conv.{each}"] for each in ("weight", "bias")))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert converted.changes[1] == "batch normalisation: 10 layers folded into the preceding convolutions"
    assert not converted.unused


def test_a_network_without_biases():
    file = {name: array for name, array in tiny_vgg("layers").items() if name.endswith("weight")}
    converted = converted_vgg(file)
    assert not converted.tensors["backbone.3.conv.bias"].any()
    assert "biases: set to 0, because the file has none" in converted.changes


def vgg_with(name, array):
    return {**tiny_vgg(), name: array}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            {"a.b": np.ones(3), "c": np.ones(3)},
            r"the tensor names \('a\.b, c' …\) belong to no known network; expected one of torchvision-vgg19, model",
        ),
        (
            {name: each for name, each in tiny_vgg().items() if "features.5" not in name},
            r"has no features\.5\.weight; expected shape \(4, 4, 1, 1\)",
        ),
        (
            {name: each for name, each in tiny_vgg().items() if name != "features.5.bias"},
            r"has no features\.5\.bias; expected shape \(4,\)",
        ),
        (
            vgg_with("features.2.weight", np.ones((4, 5, 1, 1), "f4")),
            r"features\.2\.weight: shape \(4, 5, 1, 1\), expected \(4, 4, 1, 1\)",
        ),
        (
            vgg_with("features.2.bias", np.arange(4)),
            r"features\.2\.bias: dtype int64, expected a floating-point type",
        ),
        (
            vgg_with("features.2.bias", np.float32([1, np.nan, 2, 3])),
            r"features\.2\.bias: contains values that are not finite",
        ),
        (vgg_with("features.2.bias", np.array([1e300] * 4)), "not finite"),
        ({**tiny_vgg(norms=True), "features.1.running_var": np.float32([1, -1, 1, 1])}, "its variance is below 0"),
    ],
)
def test_other_networks_are_refused(file, message):
    with pytest.raises(ValueError, match=f"^{message}" if not message.endswith(("0", "finite")) else message):
        converted_vgg(file)


def test_the_kind_can_be_given():
    assert converted_vgg(tiny_vgg("layers"), "modelzoo-vgg19").network.name == "modelzoo-vgg19"
    with pytest.raises(ValueError, match=r"has no conv1_1\.weight"):
        converted_vgg(tiny_vgg("layers"), "cmu")


def test_wrapper_prefixes_are_removed():
    assert strip_wrapper_prefixes("network.network.base.conv4_3_CPM.weight") == "base.conv4_3_CPM.weight"
    assert strip_wrapper_prefixes("module.features.0.bias") == "features.0.bias"
    assert strip_wrapper_prefixes("model6_2.Mconv1_stage6_L2.weight") == "Mconv1_stage6_L2.weight"
    assert strip_wrapper_prefixes("model0.conv1_1.weight") == "conv1_1.weight"
    assert strip_wrapper_prefixes("moments.network.a") == "moments.network.a"


def test_the_command_knows_every_kind():
    assert tuple(PUBLISHED_NETWORKS) == command.NETWORK_NAMES


@pytest.fixture(scope="module")
def torchvision(tmp_path_factory):
    """VGG19 of torchvision with a further convolution and a classifier, which are not needed."""
    classifier = {"classifier.0.weight": np.ones((8, 4), "f4"), "classifier.0.bias": np.ones(8, "f4")}
    weights = random_weights(vgg_layers("features", more=1)) | classifier
    return write(tmp_path_factory.mktemp("vgg") / "vgg19-dcbb9e9d.pth", weights, "zip"), weights


def test_the_command_prints_a_summary(torchvision, tmp_path):
    source, weights = torchvision
    out = tmp_path / "new" / "vgg19.ckpt"
    result = run(source, "--out", out, "--kind", "torchvision-vgg19")
    assert (result.exit_code, result.output.splitlines()) == (
        0,
        [
            "torchvision-vgg19, 20 of 184 tensors: backbone 20 of 20, features 0 of 4, stages 0 of 160",
            "first convolution: input channels reordered from RGB to BGR",
            "normalisation of BGR values from 0 to 255: mean 103.53 116.28 123.675, std 57.375 57.12 58.395",
            "not used: features.23 (2 tensors), classifier.0 (2 tensors)",
            str(out),
        ],
    )
    tensors = load_checkpoint(out).tensors
    np.testing.assert_array_equal(tensors["backbone.12.conv.weight"].asnumpy(), weights["features.21.weight"])


def test_errors_are_one_line_and_nothing_is_written(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"text")
    for arguments, message in (
        (
            ("nowhere.pth", "--out", tmp_path / "x.ckpt"),
            "Error: nowhere.pth: No such file or directory; expected a PyT",
        ),
        ((tmp_path / "a.pth", "--out", tmp_path / "x.ckpt"), "Error: "),
        ((tmp_path / "a.pth", "--out", tmp_path / "x.pth"), "expected a file name that ends in .ckpt"),
        ((tmp_path / "a.pth", "--out", tmp_path), "expected a file name that ends in .ckpt"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert message in result.output
        assert len(result.output.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_a_checkpoint_of_this_project_is_not_a_published_network(tmp_path):
    ms.save_checkpoint([{"name": "backbone.0.conv.weight", "data": ms.Tensor(np.ones(3, "f4"))}], f"{tmp_path}/a.ckpt")
    with pytest.raises(InputError, match="belong to no known network"):
        convert_file(tmp_path / "a.ckpt", None)
