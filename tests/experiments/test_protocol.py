"""What a protocol says: its parents, from a file or an object, and the runs that a command asks for."""

import json

import pytest
import yaml
from zoo_helpers import write_module

from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.experiments.protocol.parents import PROTOCOLS, as_text, read_parents
from smd_evo.experiments.protocol.plan import Part, planned

PARENTS = [
    {"name": "resnet18"},
    {"name": "small", "model": "nets:first"},
    {"name": "own", "checkpoint": "weights/own.pth", "checkpoint_key": "ema"},
]
OWN = {
    "resnet18": {"model": "timm:resnet18"},
    "small": {"model": "nets:first"},
    "own": {"model": "timm:own", "checkpoint": "weights/own.pth", "checkpoint_key": "ema"},
}


def write(file, content):
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


class TestParents:
    def test_a_name_means_networks_of_timm(self):
        own = read_parents("imagenet").own
        assert tuple(own) == PROTOCOLS["imagenet"]
        assert own["vgg16"] == {"model": "timm:vgg16"}

    @pytest.mark.parametrize("name", ["study.yaml", "study.yml", "study"])
    @pytest.mark.parametrize("content", [PARENTS, {"parents": PARENTS}, {"parents": PARENTS, "settings": None}])
    def test_a_file_lists_them(self, here, name, content):
        write(here / name, content)
        found = read_parents(name)
        assert (found.own, found.settings) == (OWN, {})
        assert list(found.own) == list(OWN)

    def test_paths_in_a_file_begin_at_the_file(self, here, monkeypatch):
        monkeypatch.setenv("HOME", "/home/me")
        parents = [
            {"name": "beside", "checkpoint": "a.pth"},
            {"name": "elsewhere", "checkpoint": "/weights/a.pth"},
            {"name": "home", "checkpoint": "~/a.pth"},
            {"name": "published", "checkpoint": None},
        ]
        content = {"parents": parents, "settings": {"checkpoint": "all", "data": "imagefolder:pictures"}}
        write(here / "studies" / "one.yaml", content)
        found = read_parents("studies/one.yaml")
        files = {name: own["checkpoint"] for name, own in found.own.items()}
        assert files == {
            "beside": "studies/a.pth",
            "elsewhere": "/weights/a.pth",
            "home": "/home/me/a.pth",
            "published": None,
        }
        assert found.settings == {"checkpoint": "studies/all", "data": "imagefolder:pictures"}

    @pytest.mark.parametrize("name", ["plain", "mapping", "made"])
    def test_an_object_of_ones_own_says_the_same(self, here, name):
        source = f"plain = {PARENTS}\nmapping = {{'parents': tuple(plain)}}\ndef made(): return plain"
        write_module(here, "studies_of_mine", source)
        assert read_parents(f"studies_of_mine:{name}").own == OWN

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (
                {"size": 224, "crop": 0.875, "mean": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
                "size=224,crop=0.875,mean=0.5/0.5/0.5,interpolation=bicubic",
            ),
            ({"std": (0.25, 1)}, "std=0.25/1"),
            ("size=224", "size=224"),
            (None, None),
        ],
    )
    def test_a_preprocessing_is_a_mapping_or_a_text(self, value, text):
        assert as_text("preprocessing", value) == text

    @pytest.mark.parametrize("value", [{"size": None}, {"size": []}, {"crop": True}, {"mean": [{"r": 1}]}])
    def test_of_numbers_and_words(self, value):
        (name,) = value
        with pytest.raises(InvalidValue, match=f"^preprocessing {name}: expected a number, a word or a list of numb"):
            as_text("preprocessing", value)

    def test_it_becomes_one_wherever_it_stands(self, here):
        whole = {"size": 64, "mean": [0.5]}
        parents = [{"name": "a", "preprocessing": whole}]
        write(here / "study.yaml", {"parents": parents, "settings": {}})
        assert read_parents("study.yaml").own["a"]["preprocessing"] == "size=64,mean=0.5"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("resnet18", "expected a list of parents, or a mapping of parents and settings, got 'resnet18'"),
            (None, "expected a list of parents"),
            ([], "expected one or more parents, got none"),
            ({"settings": {}}, "expected one or more parents, got none"),
            ({"parents": {"name": "a"}}, "expected a list of parents"),
            ({"parentz": []}, "expected one of parents, settings, got 'parentz'; did you mean 'parents'?"),
            ([{"name": "a"}, "resnet18"], "parent 2: expected a mapping such as {name: resnet18}, got 'resnet18'"),
            ([{"model": "nets:first"}], "parent 1: expected a name of letters, digits, '.', '_' and '-'"),
            ([{"name": 3}], "got 3"),
            ([{"name": "a/b"}], "got 'a/b'"),
            ([{"name": ".."}], "got '..'"),
            ([{"name": "-a"}], "got '-a'"),
            ([{"name": "summary.json"}], "got 'summary.json'"),
            ([{"name": "a"}, {"name": "b"}, {"name": "A"}], "parent A: expected a name that no other parent has"),
            ([{"name": "a", "modle": "b"}], "parent a: expected one of name, model, checkpoint, checkpoint_key"),
            ([{"name": "a", "checkpoint": 3}], "parent a: checkpoint: expected a word, got 3"),
            ([{"name": "a", "preprocessing": {"size": None}}], "parent a: preprocessing size: expected a number"),
            ({"parents": PARENTS, "settings": [1]}, "settings: expected a mapping such as {children: 64}, got [1]"),
            ({"parents": PARENTS, "settings": {"childern": 3}}, "settings: expected one of "),
            ({"parents": PARENTS, "settings": {"model": "a"}}, "settings: expected one of "),
        ],
    )
    def test_what_is_wrong_is_told_with_its_place(self, here, content, message):
        write(here / "study.yaml", content)
        with pytest.raises((InvalidValue, InvalidType)) as error:
            read_parents("study.yaml")
        assert str(error.value).startswith("protocol study.yaml")
        assert message in str(error.value)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("imagnet", "expected one of imagenet, FILE.yaml or module.path:factory, got 'imagnet'; did you mean"),
            ("nowhere.yaml", "expected a readable YAML file, got nowhere.yaml"),
            ("no_module:name", "there is no module 'no_module'"),
            ("math:pi", "expected a function 'pi' in math"),
        ],
    )
    def test_what_is_not_there(self, here, name, message):
        with pytest.raises(InvalidValue, match=r"^protocol: ") as error:
            read_parents(name)
        assert message in str(error.value)


class TestPlan:
    @pytest.fixture
    def file(self, here):
        settings = {"children": 64, "density": [0.1], "seed": 4}
        write(here / "study.yaml", {"parents": PARENTS, "settings": settings})
        return "study.yaml"

    def test_all_networks_come_with_the_first_seed_before_any_with_the_next(self):
        plan = planned({}, "nets:b,a", None, "7,0")
        assert [part.folder for part in plan.parts] == ["nets-b-seed7", "a-seed7", "nets-b-seed0", "a-seed0"]
        assert [plan.settings(part)["seed"] for part in plan.parts] == [7, 7, 0, 0]
        assert [plan.settings(part)["model"] for part in plan.parts[:2]] == ["nets:b", "timm:a"]

    def test_without_seeds_folders_have_the_names_alone(self, file):
        plan = planned({}, None, file)
        assert [part.folder for part in plan.parts] == ["resnet18", "small", "own"]

    def test_what_is_given_wins_over_the_file_and_a_parent_over_that(self, file):
        plan = planned({"children": "6", "checkpoint_key": "model"}, "own,small", file)
        own, small = map(plan.settings, plan.parts)
        common = {"children": "6", "density": [0.1], "seed": 4}
        assert own == {**common, **OWN["own"]}
        assert small == {**common, "checkpoint_key": "model", **OWN["small"]}

    def test_seeds_win_over_the_seed_of_a_file(self, file):
        plan = planned({}, "own", file, "3")
        assert plan.settings(plan.parts[0])["seed"] == 3

    def test_weights_of_a_folder_go_to_those_who_have_none_of_their_own(self, here, file):
        (here / "all").mkdir()
        (here / "all" / "small.pth").touch()
        plan = planned({"checkpoint": "all"}, None, file)
        assert plan.weights(Part("small")) == {"checkpoint": "all/small.pth"}
        assert plan.weights(Part("own")) == {}
        with pytest.raises(InvalidValue, match=r"checkpoint: expected a file resnet18\{"):
            plan.weights(Part("resnet18"))

    def test_finished_parts_are_found_by_their_seeds_and_in_the_order_of_the_protocol(self, here, file):
        for name in ("own-seed2", "small-seed10", "small-seed2", "own-seed02", "other-seed2", "small", "own-seedx"):
            (here / name).mkdir()
            (here / name / "results.json").touch()
        (here / "resnet18-seed2").mkdir()
        found = planned({}, "own", file, "0").found(here)
        assert [part.folder for part in found] == ["small-seed2", "own-seed2", "small-seed10"]
        assert [part.folder for part in planned({}, "own", file).found(here)] == ["small"]

    def test_the_command_is_kept_as_far_as_it_has_come(self, file):
        plan = planned({"children": "6"}, None, file, "1,0")
        told = plan.command([Part("small", 0), Part("own", 0), Part("small", 1)])
        assert told == {"protocol": file, "models": ["small", "own"], "seeds": [0, 1], "settings": {"children": "6"}}
        assert plan.command(plan.parts)["models"] is None
        assert json.loads(json.dumps(told)) == told

    @pytest.mark.parametrize(
        ("models", "seeds", "given", "message"),
        [
            ("small,vgg16", None, {}, "models: expected one of resnet18, small, own, got 'vgg16'"),
            ("small,", None, {}, "models: expected different names"),
            (None, "0,0", {}, "seeds: expected one or more different whole numbers, got '0,0'; try 0,1,2"),
            (None, "-1", {}, "seeds: expected an int in"),
            (None, "", {}, "seeds: expected an int in"),
            (None, "0", {"seed": "3"}, "seed: expected none beside seeds, got '3'"),
            (None, None, {"model": "a"}, "model: expected none beside models or a protocol"),
        ],
    )
    def test_what_does_not_go_together(self, file, models, seeds, given, message):
        with pytest.raises((InvalidValue, InvalidType)) as error:
            planned(given, models, file, seeds)
        assert str(error.value).startswith(message)

    def test_no_two_networks_share_a_folder(self):
        with pytest.raises(InvalidValue, match="expected different folders, got nets-a of nets:a and nets"):
            planned({}, "nets:a,nets-a", None)
