from __future__ import annotations

import json

import pytest

from tire_pipeline.errors import InputError
from tire_pipeline.imaging import IMAGENET_MEAN, IMAGENET_STD
from tire_pipeline.models.licences import forbids_commercial_use
from tire_pipeline.models.manifest import MANIFEST, SUMS, choose, parse
from tire_pipeline.refs import WeightsRef

SHA = "ab" * 32


def manifest(**fields: object) -> str:
    return json.dumps({"files": [{"file": "a.pth", "sha256": SHA, **fields}]})


def listed(*files: str, architecture: str = "resnet18") -> list[WeightsRef]:
    return [WeightsRef(f, SHA, architecture, "mit", IMAGENET_MEAN, IMAGENET_STD) for f in files]


def test_an_entry_says_what_the_weights_need() -> None:
    given = {"architecture": "timm:x", "licence": "mit", "mean": [0.5, 0.5, 0.5], "std": [0.1, 0.2, 1]}
    (ref,) = parse(MANIFEST, manifest(**given, arguments={"pad_type": "same"}))
    assert ref == WeightsRef("a.pth", SHA, "timm:x", "mit", (0.5,) * 3, (0.1, 0.2, 1.0), {"pad_type": "same"})


def test_what_an_entry_leaves_out_is_imagenets() -> None:
    (ref,) = parse(MANIFEST, manifest())
    assert (ref.mean, ref.std, ref.architecture, ref.licence) == (IMAGENET_MEAN, IMAGENET_STD, "", "")


def test_sums_alone_will_do() -> None:
    assert [r.file for r in parse(SUMS, f"{SHA}  a.pth\n{SHA} *sub/b c.safetensors\n\n")] == [
        "a.pth",
        "sub/b c.safetensors",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "weights.json cannot be read"),
        ('{"models": []}', "weights.json cannot be read"),
        (manifest(sha256="abc"), "needs a `file` inside the folder and its `sha256`"),
        (manifest(file="../a.pth"), "needs a `file` inside the folder"),
        (manifest(file="/etc/passwd"), "needs a `file` inside the folder"),
        (manifest(license="mit"), "a.pth has unknown fields: license. Known: .*licence"),
        (manifest(mean=[1, 2, 3]), "mean and std are three numbers from 0 to 1"),
        (manifest(std=[0.5]), "mean and std are three numbers"),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse(MANIFEST, text)


def test_imagenet_is_the_one_file_of_that_architecture() -> None:
    refs = [*listed("a"), *listed("b", architecture="vgg19")]
    assert choose(refs, "imagenet", model_type="vgg19") == refs[1]
    assert choose(refs, "imagenet", model_type="resnet50") is None
    with pytest.raises(InputError, match=r"Several weights of resnet18 are listed. Name one of them: a, c"):
        choose(listed("a", "c"), "imagenet", model_type="resnet18")


def test_a_file_is_chosen_by_its_name() -> None:
    refs = listed("a.pth", "b.pth")
    assert choose(refs, "b.pth", model_type="resnet18") == refs[1]
    assert choose(listed("c.pth", architecture=""), "c.pth", model_type="vgg19") is not None
    with pytest.raises(InputError, match=r"weights is 'a.pht', did you mean 'a.pth'\? \(listed: a.pth, b.pth\)"):
        choose(refs, "a.pht", model_type="resnet18")
    with pytest.raises(InputError, match=r"a.pth holds weights of resnet18, not of vgg19"):
        choose(refs, "a.pth", model_type="vgg19")
    with pytest.raises(InputError, match="listed: none; set TIRE_WEIGHTS"):
        choose([], "a.pth", model_type="vgg19")


@pytest.mark.parametrize(
    "licence",
    [
        "cc-by-nc-4.0",
        "CC BY-NC-SA 4.0",
        "fair-noncommercial-research-license",
        "apple-amlr",
        "seer-license",
        "Non-Commercial",
    ],
)
def test_licences_that_forbid_commercial_use_are_known(licence: str) -> None:
    assert forbids_commercial_use(licence)


@pytest.mark.parametrize("licence", ["apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "ncsa-ish", ""])
def test_other_licences_do_not(licence: str) -> None:
    assert not forbids_commercial_use(licence)
