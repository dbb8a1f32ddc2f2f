"""All routes and the recommendation of a case."""

from __future__ import annotations

from mpsprobe.routes import cloud, hybrid, mps, recommend
from mpsprobe.routes.case import Case
from mpsprobe.routes.mlx import route as mlx
from mpsprobe.run import Outlook


def outlook(case: Case) -> Outlook:
    """Return what follows from a run: its forecast, each route, and what its owner should do."""
    judgement = mps.judge(case)
    quotes = cloud.quotes(case)
    quote = cloud.best(quotes)
    mlx_route, work = mlx.route(case)
    routes = [
        mps.route(case, judgement),
        hybrid.route(case, judgement, quote),
        mlx_route,
        cloud.route(case, quotes),
    ]
    grounds = recommend.Grounds(case, judgement, {one.name: one for one in routes}, work, quote)
    return Outlook(forecast=case.forecast, routes=routes, recommendation=recommend.recommend(grounds))
