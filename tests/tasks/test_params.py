from pathlib import Path

import pytest
import yaml

from tasks.errors import UserError
from tasks.params import Drift, Footage, Label, load, load_drift, load_footage, load_label

COMMITTED = Path(__file__).parents[2] / "params.yaml"


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_committed_file_is_right() -> None:
    params = load(COMMITTED)
    assert params.candidate("modelo_01").network == "modelo_01"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("min_accuracy:", "min_acuracy:", "unknown key promote.min_acuracy; did you mean 'min_accuracy'?"),
        ("\nparse:", "\nprase:", "unknown key prase; did you mean 'parse'?"),
        ("mirror: true", "miror: true", ".augment.miror; did you mean 'mirror'?"),
        ("patience: 3", "patiense: 3", ".plateau.patiense; did you mean 'patience'?"),
        (
            "    plateau:",
            "    schedule: cosine\n    plateau:",
            "candidates.modelo_01: plateau changes a rate that `schedule` sets already; use one of them",
        ),
        ("augment: {mirror: true}", "augment: {zoom: 0.1}", "candidates.vgg16: frozen features are computed once"),
        (
            "frozen_until: block5_pool",
            "frozen_until: x\n    sizes: [{until: 0.5, pixels: 32}]",
            "frozen features are of whole faces; neither",
        ),
        ("{until: 0.3, pixels: 32}", "{until: 0.7, pixels: 32}", "each of `sizes` must end after the one before it"),
        (
            "labels: arrays",
            "labels: taught",
            "candidates.modelo_01: `labels: taught` (or _again, _thrice, _fourth) and the section `taught` go together",
        ),
        ("until: 0.6, share: 0.6", "until: 0.3, share: 0.6", "self_taught.since must come before self_taught.until"),
        ("until: 0.6, share: 0.6", "until: 1.0, share: 0.6", "after self_taught.until no epoch is left"),
        ("averaged: 0.7", "averaged: 0.7\n    early_stopping: 8", "`averaged` holds the rate to the last epoch"),
        ("weight_decay: 0.01,", "weight_decay: 1e-2,", "optimizer: options.weight_decay is '1e-2', a text; YAML reads"),
        (
            "momentum: 0.9",
            "momentum: much",
            "optimizer: options.momentum is 'much'; it should be a number, not negative",
        ),
        ("momentum: 0.9", "momentum: null", "optimizer: options.momentum is None; it should be a number, not negative"),
        ("ns_steps: 4,", "use_ema: true,", "optimizer: options.use_ema has no effect here; to average weights, see"),
        ("ns_steps: 4,", "ns_steps: 4.0,", "optimizer: options.ns_steps is 4.0; it should be a whole number"),
        ("global_clipnorm: 5.0", "global_clipnorm: -5.0", "optimizer: options.global_clipnorm is -5.0; it should be a"),
        ("{until: 0.3, pixels: 32}", "{until: 0.6, pixels: 32}", "each of `sizes` must end after the one before it"),
        ("max_rejected: 0.01", "max_rejected: true", "parse.max_rejected is True; it should be a valid number"),
        ("seed: 7", "seed: 7\n  1: 2", "unknown key train.1, which is no text"),
        ("factor: 0.9", "factor: 1.0", "plateau.factor is 1.0; it should be less than 1"),
        (
            "    self_taught:",
            "    mixup: 0.2\n    self_taught:",
            "candidates.large_self_taught: `self_taught` needs the answers",
        ),
        ("{fear: 1.2}", "{feer: 1.2}", "class_weights: no expression 'feer'; did you mean 'fear'?"),
        ("{fear: 1.2}", "{fear: 0}", "class_weights.fear is 0; it should be greater than 0"),
        ("  large_untaught: taught", "  larg: taught", "teachers: no candidate 'larg'; did you mean 'large'?"),
        (
            "  large: taught_again",
            "  large: taught",
            "teachers: 'large' learns from data/taught; its answers cannot be in data/taught",
        ),
        (
            "network: modelo_01\n    labels: arrays",
            "network: modelo_01\n    labels: taught\n    taught: {by: [dense], share: 0.5}",
            "candidates.modelo_01.taught.by: `teachers` has no 'dense: taught'",
        ),
        ("seed: 7", "zzz: 7", "unknown key train.zzz; known: seed, max_minutes"),
        ("seed: 7", 'seed: "7"', "train.seed is '7'; it should be a valid integer"),
        ("seed: 7", "seed: -1", "train.seed is -1; it should be greater than or equal to 0"),
        ("seed: 7", "seed: 4294967296", "train.seed is 4294967296; it should be less than 4294967296"),
        ("  seed: 7\n", "", "train.seed is missing"),
        ("max_rejected: 0.01", "max_rejected: 1.5", "parse.max_rejected is 1.5; it should be less than or equal to 1"),
        ("max_rejected: 0.01", "max_rejected: .nan", "parse.max_rejected is nan"),
        ("every: 0.2", "every: .inf", "video.every is inf"),
        ("every: 0.2", "start: 5.0\n  stop: 5.0", "video: stop, 5 s, must come after start, 5 s"),
        ("max_rejected: 0.01", "max_rejected: 1e-2", "YAML reads a number with an exponent only with its point"),
        ("source: data/raw", "source: [data/raw]", "ingest.source is ['data/raw']; it should be a valid string"),
        (
            "parse:\n  max_rejected",
            "parse: 3\nx:\n  max_rejected",
            "parse is 3; it should be a section of keys and values",
        ),
        ("schedule: cosine", "schedule: cosin", ".schedule is 'cosin'; it should be 'constant' or 'cosine'"),
        ("seed: 7", "seed: 7\n\tx: 1", ", is not YAML: found character"),
        ("{until: 0.3, pixels: 32}", "{untl: 0.3, pixels: 32}", ".sizes.0.untl; did you mean 'until'?"),
        ("seed: 7", "seed: 7\n  seed: 8", ", is not YAML: 'seed' is there twice"),
        ("source: data/raw", "source: 2026-13-01", "has a value that cannot be read: month must be in 1..12"),
        ("  dense:", "  v1.5:", "candidates: 'v1.5' is no name; use letters, digits, - and _"),
        ("  dense:", "  ../dense:", "candidates: '../dense' is no name"),
    ],
)
def test_a_mistake_is_told_by_name(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = COMMITTED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new))
    found = complaint(path)
    assert words in found
    assert str(path) in found


def test_without_a_candidate_there_is_nothing_to_train(tmp_path: Path) -> None:
    text = COMMITTED.read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(text) | {"candidates": {}, "teachers": {}}))
    assert "candidates is {}; it should have at least 1 item" in complaint(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; it should have the sections ingest, parse"),
        (b"- 1\n- 2\n", "it should be a section of keys and values"),
        (b"hello\n", "it should be a section of keys and values"),
        (b"a: [1\nb: {", "line 2, is not YAML"),
        (b"\xff\xfea\0", "is not YAML: it is not UTF-8 text"),
        (b"a: \x01\n", "is not YAML: unacceptable character #x0001"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    assert words in complaint(path)


def test_no_file(tmp_path: Path) -> None:
    assert "run ferflow in the folder of the pipeline" in complaint(tmp_path / "params.yaml")


def test_a_candidate_that_does_not_exist() -> None:
    with pytest.raises(UserError, match=r"no candidate 'modelo01' in params\.yaml; did you mean 'modelo_01'\?"):
        load(COMMITTED).candidate("modelo01")


def test_drift_has_defaults_where_no_params_are_and_a_section_in_the_committed_ones(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert load_drift(path) == Drift() == load_drift(COMMITTED)
    path.write_text(COMMITTED.read_text().replace("max_psi: 0.25", "max_psi: 0.5"))
    assert load_drift(path) == Drift(max_psi=0.5)
    path.write_text(COMMITTED.read_text().replace("max_psi:", "max_ps:"))
    with pytest.raises(UserError, match=r"unknown key drift\.max_ps; did you mean 'max_psi'"):
        load_drift(path)


def test_options_win_over_the_section_label_key_by_key(tmp_path: Path) -> None:
    nowhere = tmp_path / "params.yaml"
    assert load_label({}, nowhere) == Label()
    section = load_label({"min_confidence": 0.8, "yunet": {"overlap": 0.5}}, nowhere)
    assert (section.min_confidence, section.yunet.overlap, section.yunet.min_score) == (0.8, 0.5, 0.7)
    nowhere.write_text(COMMITTED.read_text().replace("mirror: true  #", "mirror: false  #"))
    assert load_label({"whole": True}, nowhere) == Label(mirror=False, whole=True)


def test_options_win_over_the_section_video_and_agree_with_the_rest_of_it(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert load_footage({}, path) == Footage() == load_footage({}, COMMITTED)
    path.write_text(COMMITTED.read_text().replace("every: 0.2", "every: 0.5\n  start: 10.0\n  stop: 60.0"))
    assert load_footage({"start": 20.0}, path) == Footage(every=0.5, start=20.0, stop=60.0)
    with pytest.raises(UserError, match=r"^video: stop, 60 s, must come after start, 90 s$"):
        load_footage({"start": 90.0}, path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"detectr": "haar"}, "unknown key label.detectr; did you mean 'detector'?"),
        ({"yunet": {"scor": 1}}, "unknown key label.yunet.scor; did you mean 'min_score'?"),
        ({"mirror": 1}, "label.mirror is 1; it should be a valid boolean"),
        ({"yunet": 3}, "label.yunet is 3; it should be a section of keys and values"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_label(options, tmp_path / "params.yaml")
    assert str(error.value) == words


def test_a_section_may_take_keys_from_another_and_change_them(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    yunet = "yunet: &first {min_score: 0.7, overlap: 0.3}"
    text = COMMITTED.read_text(encoding="utf-8").replace("yunet: {min_score: 0.7, overlap: 0.3}", yunet)
    path.write_text(text + "\nextra: &more {<<: *first, overlap: 0.5}\n")
    assert "unknown key extra" in complaint(path)  # and not that overlap is there twice
