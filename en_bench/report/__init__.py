"""Tables and the page: pure functions of a specification and its records."""
