"""How much an owner may take: rates, budgets, places. docs/limits.md says what each counts and how exactly."""
