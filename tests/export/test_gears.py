"""Gears: a plan's canvases times the batch sizes, and how inputs are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixshape.errors import ShapeError, UsageError
from fixshape.export import Gears, Input, OnnxHeader, Port, header_inputs, parse_inputs, plan_gears
from fixshape.plan import Bucket, ShapePlan

NAMES = st.text(st.characters(blacklist_characters=";", blacklist_categories=("Cs", "Z", "C")), min_size=1, max_size=8)
DIMS = st.one_of(st.integers(1, 10**6), st.sampled_from(["N", "H", "W", "L", "seq_len"]))


@given(
    st.lists(st.builds(Input, NAMES, st.lists(DIMS, max_size=5).map(tuple)), min_size=1, max_size=4, unique_by=lambda i: i.name)
)
def test_what_is_written_is_read_again(inputs):
    assert parse_inputs(";".join(map(str, inputs))) == tuple(inputs)


@given(st.text(max_size=30))
def test_any_text_is_inputs_or_one_of_our_errors(text):
    try:
        assert parse_inputs(text)
    except (UsageError, ShapeError):
        pass


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images", r"inputs: 'images' is not NAME:DIM,DIM,\.\.\.; write for example 'images:N,3,H,W;image_sizes:N,2'\."),
        (":N,3", r"inputs: ':N,3' is not NAME:DIM"),
        ("a:1;a:2", r"inputs: 'a' comes twice, expected each input once\."),
        ("a:1,-1", r"inputs: '-1' in 'a:1,-1' is no dim, expected a whole number or a word such as N, H, W\."),
        ("a:1,,2", r"inputs: '' in 'a:1,,2' is no dim"),
    ],
)
def test_inputs_that_cannot_be_read(text, said):
    with pytest.raises(UsageError, match=f"^{said}"):
        parse_inputs(text)


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ShapeError, match=r"^Input: a dim of 'a' is 0, expected a whole number of at least 1\.$"):
        parse_inputs("a:0")
    with pytest.raises(UsageError, match=r"^Input: a dim of 'a' is '2H', expected a number or a word such as N, H, W\.$"):
        Input("a", ("2H",))
    with pytest.raises(UsageError, match=r"^Input: the name is empty, "):
        Input("", (1,))


PLAN = ShapePlan([Bucket(320, 320, 8), Bucket(320, 480, 8), Bucket(320, 480, 64)], fallback=Bucket(640, 640, 99))


def test_gears_are_canvases_times_batch_sizes():
    gears = plan_gears(PLAN, parse_inputs("images:N,3,H,W;image_sizes:N,2"), batch_sizes=(1, 4, 1), counts=(5, 70, 20, 5))
    assert [gears.shapes(index)["images"] for index in range(len(gears))] == [
        (1, 3, 320, 320),
        (4, 3, 320, 320),
        (1, 3, 320, 480),  # one canvas, though the plan has it with two numbers of box slots
        (4, 3, 320, 480),
        (1, 3, 640, 640),
        (4, 3, 640, 640),
    ]
    assert gears.shapes(5)["image_sizes"] == (4, 2)
    assert gears.counts == (5, 5, 90, 90, 5, 5)
    assert (gears.symbols, gears.largest, gears.most_frequent) == (("N", "H", "W"), 5, 2)


def test_inputs_without_a_canvas_have_the_batch_sizes_as_gears():
    gears = plan_gears(PLAN, parse_inputs("x:N,16"), batch_sizes=(2, 8))
    assert gears.values == ({"N": 2}, {"N": 8})
    assert gears.most_frequent == gears.largest == 1
    assert plan_gears(PLAN, parse_inputs("x:2,16")).values == ({},)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: plan_gears(PLAN, parse_inputs("x:N,L")),
            r"plan_gears: a plan has no sizes for L of x:N,L, it has N, H, W\. Write the size itself, or make Gears\(",
        ),
        (
            lambda: plan_gears(PLAN, parse_inputs("x:N"), batch_sizes=()),
            r"plan_gears: got no batch size, expected at least one\.",
        ),
        (lambda: plan_gears(PLAN, parse_inputs("x:N"), counts=(1,)), r"plan_gears: got 1 counts for 4 shapes of the plan, "),
        (lambda: Gears((), ({},)), r"Gears: got 0 inputs and 1 gears, expected at least one of each\."),
        (
            lambda: Gears(parse_inputs("x:N,L"), ({"N": 1, "L": 2}, {"N": 1})),
            r"Gears: gear 1 has sizes for N, and none for L of x:N,L\. Write the size itself in the input, or give it",
        ),
        (lambda: Gears(parse_inputs("x:N"), ({"N": 1},), (1, 2)), r"Gears: got 2 counts for 1 gears, expected one for each\."),
    ],
)
def test_gears_that_cannot_be(make, said):
    with pytest.raises(UsageError, match=f"^{said}"):
        make()


def test_sizes_and_counts_in_range():
    with pytest.raises(ShapeError, match=r"^Gears: N of gear 0 is 0, expected a whole number of at least 1\.$"):
        plan_gears(PLAN, parse_inputs("x:N"), batch_sizes=(0,))
    with pytest.raises(ShapeError, match=r"^Gears: the count of gear 0 is -1, expected a whole number of at least 0\.$"):
        Gears(parse_inputs("x:N"), ({"N": 1},), (-1,))


def test_inputs_of_a_header():
    ports = (Port("x", "float32", ("b", 3, None, "w")), Port("ids", "int64", ("b", 77)), Port("t", "float32", ()))
    assert ";".join(map(str, header_inputs(OnnxHeader(ports, (), {"": 18}, 10, ())))) == "x:N,3,H,W;ids:N,77;t:"
    nhwc = Port("x", "float32", ("N", "H", "W", 3))
    assert header_inputs(OnnxHeader((nhwc,), (), {"": 18}, 10, ()))[0].dims == ("N", "H", "W", 3)
    for dims, told, way in (
        (("b", "seq"), "b,seq", "N,128"),
        (None, "of unknown rank", "N,128"),
        ((1, None, 3), "1,?,3", "1,128,3"),
    ):
        with pytest.raises(UsageError, match=rf"inputs: 'ids' is {told.replace('?', '.')}, and a plan has a batch size") as error:
            header_inputs(OnnxHeader((Port("ids", "int64", dims),), (), {"": 18}, 10, ()))
        assert f"Say what is what, and write the sizes of other axes: --inputs 'ids:{way}'." in str(error.value)
