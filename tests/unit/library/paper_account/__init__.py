"""The paper account, judged by hand-worked numbers and by properties."""
