"""What riteraft can do on one machine, in figures: run by `nox -s benchmark`, apart from the tests."""
