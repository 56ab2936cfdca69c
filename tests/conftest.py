"""Every property test says so in the JUnit file, for tests/counts.py."""


def pytest_collection_modifyitems(items):
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.user_properties.append(("kind", "property"))
