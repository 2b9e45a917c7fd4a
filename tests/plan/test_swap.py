"""The fewest shapes that cover all cells, against trying every choice; and exchanges, which end where none helps."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.plan._problem import gather, make_problem
from fixshape.plan._swap import fewest, improve

_cells = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8)


def _covers(problem, chosen):
    return bool((problem.cost[:, list(chosen)].min(axis=1) < problem.never).all())


@settings(max_examples=60, deadline=None)
@given(_cells, st.integers(0, 30))
def test_no_fewer_cover_all_cells(sizes, room):
    cells, counts = gather(np.array(sizes))
    problem = make_problem("here", cells, counts, int(cells.prod(axis=1).max()) + room)
    found = fewest(problem)
    assert _covers(problem, found)
    everything = range(len(problem.shapes))
    assert not any(_covers(problem, some) for some in combinations(everything, len(found) - 1) if some)


@settings(max_examples=60, deadline=None)
@given(_cells, st.integers(1, 3), st.randoms(use_true_random=False))
def test_no_exchange_helps_in_the_end(sizes, k, random):
    problem = make_problem("here", *gather(np.array(sizes)))
    everything = range(len(problem.shapes))
    start = np.array([random.choice(everything) for _ in range(k)])
    before = problem.total(start)
    chosen, total = improve(problem, start)
    assert total == problem.total(chosen) <= before
    for place in range(k):
        for candidate in everything:
            other = chosen.copy()
            other[place] = candidate
            assert problem.total(other) >= total
