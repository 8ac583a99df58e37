"""From a model version to what serves: Bento, process, route, rollout."""
