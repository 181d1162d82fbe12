"""The comparison with other systems: one command sets everything up, measures in turns and writes the page.

    nox -s bench

`rows` says what is measured and `contenders` how each system does it; `rounds` takes turns; `results`, `report` and
`charts` make the page of it. A contender is a process of its own in an environment of its own, so that nothing that one
of them needs gets in another one's way.
"""
