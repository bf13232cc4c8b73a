"""From YAML files and overrides to one frozen, validated `Config`, and from `_target_` to the object it names."""
