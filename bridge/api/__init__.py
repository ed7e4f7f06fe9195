"""HTTP control API: routes, callers, requests, answers, problem documents."""
