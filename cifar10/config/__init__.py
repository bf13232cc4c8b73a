"""The configuration: YAML files and overrides become a frozen, validated `Config`, and `_target_` becomes an object."""
