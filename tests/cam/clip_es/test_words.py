from __future__ import annotations

from typing import Any

import pytest

from weaksam_cli.cam.class_tokens.maps import COCO_IDS
from weaksam_cli.cam.clip_es import BACKGROUND, SYNONYMS, background_words, class_words
from weaksam_cli.data.voc import VOC_CLASSES as VOC
from weaksam_cli.errors import UserError

COCO = tuple(COCO_IDS)
PUBLISHED_SPELLING = {
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor",
}


@pytest.fixture(scope="module")
def lists(oracle: Any) -> Any:
    return oracle("clipes")["text_lists"]


def _changed(names: tuple[str, ...], words: list[str]) -> dict[str, str]:
    return {name: word for name, word in zip(names, words, strict=True) if name != word}


def test_vocs_words_are_those_of_the_published_code(lists: Any) -> None:
    words = class_words(VOC, synonyms="voc", overrides={})
    assert (len(VOC), len(words)) == (lists["voc_classes"], lists["voc_prompt_names"])
    assert _changed(VOC, words) == lists["voc_changed"]


def test_cocos_words_are_those_of_the_published_code(lists: Any) -> None:
    published = tuple(PUBLISHED_SPELLING.get(name, name) for name in COCO)
    words = class_words(published, synonyms="coco", overrides={})
    assert (len(COCO), len(words)) == (lists["coco_classes"], lists["coco_prompt_names"])
    assert _changed(published, words) == lists["coco_changed"]


def test_cocos_own_spellings_give_the_same_words() -> None:
    published = tuple(PUBLISHED_SPELLING.get(name, name) for name in COCO)
    assert class_words(COCO, synonyms="coco", overrides={}) == class_words(
        published, synonyms="coco", overrides={}
    )


def test_background_names_are_as_many_as_published(lists: Any) -> None:
    voc, coco = background_words(BACKGROUND, VOC), background_words(BACKGROUND, COCO)
    assert len(set(BACKGROUND)) == len(voc) == lists["voc_background"]
    assert len(coco) == lists["coco_background"]
    assert [word for word in voc if word not in coco] == lists["coco_background_missing_vs_voc"]
    assert [word for word in voc if word in coco] == coco


def test_synonyms_are_of_classes_that_exist() -> None:
    assert SYNONYMS["voc"].keys() <= set(VOC)
    assert SYNONYMS["coco"].keys() <= {*COCO, *PUBLISHED_SPELLING.values()}


@pytest.mark.parametrize(
    ("name", "synonyms", "word"),
    [
        ("red one", "voc", "red one"),
        ("golden_retriever", "voc", "golden retriever"),
        ("  two   spaces ", "none", "two spaces"),
        ("Person", "voc", "person with clothes,people,human"),
        ("hair_drier", "coco", "hairdrier,blowdrier"),
        ("tie", "voc", "tie"),
        ("person", "none", "person"),
        ("Köttbullar", "voc", "Köttbullar"),
    ],
)
def test_a_users_own_class(name: str, synonyms: Any, word: str) -> None:
    assert class_words([name], synonyms=synonyms, overrides={}) == [word]


def test_the_recipes_words_come_before_any_table() -> None:
    overrides = {"person": "a human", "bow_tie": "necktie"}
    assert class_words(["bow_tie", "person", "chair"], overrides=overrides, synonyms="voc") == [
        "necktie",
        "a human",
        "chair seat",
    ]


def test_words_for_a_class_that_is_not_there_are_refused() -> None:
    with pytest.raises(UserError, match=r"no class 'persn', did you mean 'person'\?.* Allowed: person, cat"):
        class_words(["person", "cat"], overrides={"persn": "human"}, synonyms="voc")


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["dog"], ["ground", "road", "sky"]),
        (["Road"], ["ground", "sky"]),
        (["road_bike", "the sky"], ["ground"]),
        (["roads"], ["ground", "road", "sky"]),
        ([], ["ground", "road", "sky"]),
    ],
)
def test_a_background_that_is_a_word_of_a_class_is_left_out(names: list[str], left: list[str]) -> None:
    assert background_words(["ground", "road", "sky"], names) == left


def test_no_background_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="every background name is a class"):
        background_words(["sky"], ["sky"])
