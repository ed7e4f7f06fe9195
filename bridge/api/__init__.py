"""HTTP control API: routes, callers, schemas, problem documents."""
