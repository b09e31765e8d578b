"""A report is its JSON: it goes there and comes back, and what does not fit its types is named."""

import copy
import json
import pickle

import pytest

import qaccel
import small_models
from qaccel.report.record.record import Misfit, read_as
from qaccel.report.record.schema import Report


@pytest.fixture(scope="module")
def report() -> Report:
    """With a fallback, several subgraphs, and bits that were searched for."""
    model = small_models.interrupted()
    return qaccel.compile(model, calibration_data=small_models.samples(model), bits="auto", max_drop=5).report


def test_attributes_keys_and_json_are_the_same(report: Report):
    assert report.layers[0].stalls.compute == report["layers"][0]["stalls"]["compute"]
    assert report.search.drop.points == report["search"]["drop"]["points"] == report.drop.points
    written = json.loads(json.dumps(report))
    assert written == report and list(written) == list(report)


def test_it_is_read_back(report: Report):
    again = read_as(Report, json.loads(json.dumps(report)))
    assert again == report and again.layers == report.layers
    assert again.search == report.search and again.drop == report.drop
    assert type(again.layers[0].input_shapes) is tuple and again.fallback[0].reason == report["fallback"][0]["reason"]


def test_it_survives_copies_and_processes(report: Report):
    for again in (pickle.loads(pickle.dumps(report)), copy.deepcopy(report)):
        assert type(again) is Report and again == report and again.layers[0].cycles == report.layers[0].cycles


def test_it_is_frozen(report: Report):
    for change in (
        lambda: report.update(cycles=1),
        lambda: report.__setitem__("cycles", 1),
        lambda: report.layers[0].pop("name"),
        lambda: report.memory.clear(),
    ):
        with pytest.raises(TypeError, match="is frozen"):
            change()
    with pytest.raises(AttributeError):
        report.cycles = 1


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Every key and number of a report whose absence or change of type has to be seen."""
    if isinstance(value, dict) and not (path and path[-1] in ("hw", "calibration", "ranges")):
        return [place for key, each in value.items() for place in ((*path, key), *places(each, (*path, key)))]
    if isinstance(value, list):
        return [place for k, each in enumerate(value[:2]) for place in places(each, (*path, k))]
    return []


OPEN = {"codecs", "plan", "losses", "changed", "limits"}  # keys are names that the network has


def test_every_missing_key_is_named(report: Report):
    whole = json.loads(json.dumps(report))
    checked = 0
    for place in places(whole):
        if any(key in OPEN for key in place[:-1]) or place[0] == "calibration":
            continue
        damaged = copy.deepcopy(whole)
        holder = damaged
        for key in place[:-1]:
            holder = holder[key]
        del holder[place[-1]]
        with pytest.raises(Misfit, match=f"has no '.*{place[-1]}'"):
            read_as(Report, damaged)
        checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    "place, value, said",
    [
        (("cycles",), "many", "has 'many' at cycles, where a whole number belongs"),
        (("cycles",), True, "has True at cycles"),
        (("latency_ms",), None, "has None at latency_ms, where a number belongs"),
        (("layers", 0, "stalls"), [], r"has a list at layers\[0\].stalls, where an object belongs"),
        (("layers", 0, "name"), 5, r"has 5 at layers\[0\].name, where a text belongs"),
        (("layers", 0, "sources"), {}, r"has an object at layers\[0\].sources, where a list belongs"),
        (("search", "plans", 0, "measured"), 1, r"has 1 at search.plans\[0\].measured, where true or false belongs"),
    ],
)
def test_a_value_of_another_type_is_named(report: Report, place: tuple, value: object, said: str):
    damaged = json.loads(json.dumps(report))
    holder = damaged
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    with pytest.raises(Misfit, match=said):
        read_as(Report, damaged)
