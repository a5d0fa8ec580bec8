"""What the package of policies ships, and the folder that an admin works in."""

from __future__ import annotations

import json
import os
import stat

import pytest

from modelvault import canonical
from modelvault.adapters.policy_files import PolicyFolder
from modelvault.errors import InvalidRequest, Unavailable
from modelvault.policy import shipped
from modelvault_policies import files


@pytest.fixture
def folder(tmp_path):
    made = PolicyFolder(tmp_path / "policy")
    made.start()
    return made


def test_a_working_copy_starts_as_what_is_shipped(folder):
    assert folder.working() == shipped.bundle()
    assert folder.data_text() == files.data_text()
    assert stat.S_IMODE((folder.root / "data.json").stat().st_mode) == 0o600


def test_starting_again_keeps_what_was_edited(folder):
    (folder.root / "data.json").write_text('{"edited": true}')
    folder.start()
    assert folder.working().data == {"edited": True}


def test_site_rules_and_cases_are_found_and_tests_stay_out_of_the_bundle(folder):
    (folder.root / "site" / "deep").mkdir()
    (folder.root / "site" / "deep" / "house.rego").write_text("package modelvault.site")
    (folder.root / "site" / "house_test.rego").write_text("package modelvault.site_test")
    (folder.root / "cases").mkdir()
    (folder.root / "cases" / "mine.json").write_text('{"cases": []}')
    assert set(folder.working().modules) - set(files.modules()) == {"site/deep/house.rego"}
    assert set(folder.sources()) >= {
        "modelvault/data.json",
        "modelvault/authz/authz_test.rego",
        "site/house_test.rego",
        "site/deep/house.rego",
    }
    assert folder.cases() == {"cases/mine.json": '{"cases": []}'}


def test_a_published_bundle_comes_back_under_its_revision(folder):
    bundle = folder.working()
    revision = folder.publish(bundle)
    assert revision == bundle.revision == folder.publish(bundle)
    (folder.root / "data.json").write_text(files.data_text().replace("86400", "60", 1))
    assert folder.published(revision) == bundle
    assert folder.revisions() == (revision,)
    assert [path.name for path in (folder.root / "published").rglob("*") if path.is_file()] == [
        "bundle.json"
    ]


def test_revisions_are_listed_newest_first(folder):
    first = folder.publish(folder.working())
    (folder.root / "data.json").write_text(files.data_text().replace("86400", "60", 1))
    second = folder.publish(folder.working())
    place = folder.root / "published" / first.removeprefix("sha256:") / "bundle.json"
    os.utime(place, ns=(1, 1))
    assert folder.revisions() == (second, first)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('"max_ttl_s": 600', '"max_tll_s": 600', "max_ttl_s"),
        ('"role": "pusher"', '"role": "pushers"', "pushers"),
        ('"refuse_pickles": ["load", "renew", "export"]', '"site_data": {}', "refuse_pickles"),
    ],
)
def test_data_with_a_grave_mistake_isnt_published(folder, old, new, word):
    text = files.data_text()
    assert old in text
    (folder.root / "data.json").write_text(text.replace(old, new, 1))
    with pytest.raises(InvalidRequest, match=word) as caught:
        folder.publish(folder.working())
    assert caught.value.code == "bad_policy"
    assert folder.revisions() == ()


def test_data_with_mere_advice_is_published(folder):
    data = files.data()
    data["grants"].append(data["grants"][0])
    (folder.root / "data.json").write_text(json.dumps(data))
    assert folder.publish(folder.working()) == folder.revisions()[0]


def spoil(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        spoil(lambda raw: raw[:-1]),
        spoil(lambda raw: b""),
        spoil(lambda raw: raw.replace(b"internal", b"external", 1)),
        spoil(lambda raw: canonical.dumps({**json.loads(raw), "more": 1})),
    ],
)
def test_a_bundle_that_isnt_what_was_published_is_an_outage(folder, harm):
    revision = folder.publish(folder.working())
    harm(folder.root / "published" / revision.removeprefix("sha256:") / "bundle.json")
    with pytest.raises(Unavailable) as caught:
        folder.published(revision)
    assert caught.value.code == "policy_unavailable"


@pytest.mark.parametrize("name", ["", "sha256:", "sha256:../../x", "sha256:" + "G" * 64, "latest"])
def test_what_isnt_a_revision_names_no_file(folder, name):
    with pytest.raises(Unavailable) as caught:
        folder.published(name)
    assert caught.value.code == "policy_unavailable"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("data.json", b"{", "bad_policy"),
        ("data.json", b"[]", "bad_policy"),
        ("site/a.rego", b"\xff\xfe", "bad_policy_folder"),
    ],
)
def test_a_working_copy_that_cant_be_read_says_so(folder, name, content, code):
    (folder.root / name).write_bytes(content)
    with pytest.raises(InvalidRequest) as caught:
        folder.working()
    assert caught.value.code == code


def test_a_missing_folder_says_so(tmp_path):
    with pytest.raises(InvalidRequest) as caught:
        PolicyFolder(tmp_path / "nowhere").working()
    assert caught.value.code == "bad_policy_folder"


def test_a_shipped_file_that_isnt_an_object_is_refused(monkeypatch, tmp_path):
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "input.json").write_text("[]")
    monkeypatch.setattr(files, "HERE", tmp_path)
    with pytest.raises(TypeError):
        files.schema("input")
