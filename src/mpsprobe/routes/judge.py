"""Judge all routes of a case, and make the recommendation."""

from __future__ import annotations

from mpsprobe.routes import cloud, hybrid, mps, recommend
from mpsprobe.routes.case import Case
from mpsprobe.routes.mlx import route as mlx
from mpsprobe.run import Outlook


def outlook(case: Case) -> Outlook:
    """Return the outlook of a case: its forecast, the verdict on each route, and the recommendation."""
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
