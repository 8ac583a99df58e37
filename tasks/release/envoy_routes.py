"""Envoy's clusters and routes as plain values: who answers whom, and who after them. Reads and writes nothing.

The settings were measured with killed, hung and failing backends. What each buys stands beside it;
take one away and requests are lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tasks.release.envoy import OURS, SCORE_BYTES, TYPE, Document, named, socket_address

GET_TRY, GET_TOTAL = "1s", "3s"  # a cold pandas pipeline answers in 15 ms; a hung worker is given up after a try
SCORE_TRY, SCORE_TOTAL = "2s", "5s"  # 1,000 rows take about 50 ms
WEIGHT_TOTAL: Final = 10_000  # hundredths of a percent
MIRRORED_AT_ONCE: Final = 32  # requests a shadow may hold: each keeps its body, up to 1 MiB

def cluster(name: str, host: str, *, upstreams: Sequence[tuple[str, int]], at_once: int = 1024) -> Document:
    """One arm: `(release id, port)` in order of priority, the later ones only where the earlier failed.

    The last is never taken out: a cluster whose only endpoint is ejected answers 503 to everybody.
    The ones before it are probed, so that a hung canary costs its users one probe's time, not every request.
    `at_once` bounds the connections and requests it may hold; what is above is refused at once.
    """
    last = len(upstreams) - 1
    return {
        "@type": TYPE + "envoy.config.cluster.v3.Cluster", "name": name, "type": "STATIC",
        "connect_timeout": "0.25s", "lb_policy": "ROUND_ROBIN",
        "load_assignment": {"cluster_name": name, "endpoints": [
            {"priority": rank, "lb_endpoints": [{
                "endpoint": {**socket_address(host, port, key="address"),
                             "health_check_config": {"disable_active_health_check": rank == last}},
                "metadata": {"filter_metadata": {OURS: {"release_id": release_id}}}}]}
            for rank, (release_id, port) in enumerate(upstreams)]},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        # Envoy's own limit of 3 retries at once is what loses requests when a canary dies under load.
        "circuit_breakers": {"thresholds": [{"max_connections": at_once, "max_pending_requests": at_once,
                                             "max_requests": at_once, "max_retries": 1000}]},
        # Uvicorn closes an idle connection after 5 s; Envoy must be first, or a request meets the closing one.
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"idle_timeout": "3s"},
            "explicit_http_config": {"http_protocol_options": {}}}},
        **({"health_checks": [{"timeout": "1s", "interval": "1s", "no_traffic_interval": "1s",
                               "unhealthy_interval": "0.5s", "unhealthy_threshold": 2, "healthy_threshold": 1,
                               "http_health_check": {"path": "/readyz"}}]} if last else {}),
    }


def proxied(name: str, match: Document, *, target: Document, score: bool, key: Document | None = None,
            mirror: str | None = None, logged: Document | None = None) -> Document:
    """A route to a release.

    Args:
        target: `{"cluster": ...}` or `{"weighted_clusters": ...}`.
        score: the body and the time of a batch.
        key: the hash policy that names the customer.
        mirror: the cluster that gets a copy of each request; its answers are thrown away, nobody waits for them.
        logged: the rollout, and the share or the shadow, for the log's line of each request.
    """
    action: Document = {
        **target,
        "timeout": SCORE_TOTAL if score else GET_TOTAL,
        "retry_policy": {
            "retry_on": "5xx,reset,connect-failure,refused-stream", "num_retries": 2,
            # BentoML's parent keeps the socket of a dead worker: a request hangs there instead of being refused.
            "per_try_timeout": SCORE_TRY if score else GET_TRY,
            "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
            "host_selection_retry_max_attempts": 5,
            "retry_host_predicate": [named("envoy.retry_host_predicates.previous_hosts", {
                "@type": TYPE + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"})],
            # The second try goes to the next priority: from the canary to the champion, in the same request.
            "retry_priority": named("envoy.retry_priorities.previous_priorities", {
                "@type": TYPE + "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 1}),
        },
    }
    if key:
        action["hash_policy"] = [{**key, "terminal": True}]
    if mirror:  # the same host as the client's: the release would see a name of Envoy's making
        action["request_mirror_policies"] = [{"cluster": mirror, "disable_shadow_host_suffix_append": True}]
    route: Document = {"name": name, "match": match, "route": action}
    if logged:
        route["metadata"] = {"filter_metadata": {OURS: logged}}
    if score:
        route["typed_per_filter_config"] = {"envoy.filters.http.buffer": {
            "@type": TYPE + "envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
            "buffer": {"max_request_bytes": SCORE_BYTES}}}
    return route


def answered(name: str, match: Document, *, status: int, text: str) -> Document:
    """A route that Envoy answers itself."""
    return {"name": name, "match": match, "direct_response": {"status": status, "body": {"inline_string": text}}}


def dealt(canary: str, stable: str, share: float) -> Document:
    """Two arms, chosen by the customer's hash. The canary stands first: a larger share only adds customers."""
    weight = round(share * WEIGHT_TOTAL)
    return {"weighted_clusters": {"use_hash_policy": True, "clusters": [
        {"name": canary, "weight": weight}, {"name": stable, "weight": WEIGHT_TOTAL - weight}]}}


def customer_of(header: str, pattern: str, salt: str) -> Document:
    """Hash policy: the customer as `pattern` finds it in `header`, salted: each rollout deals anew who goes first."""
    return {"header": {"header_name": header, "regex_rewrite": {
        "pattern": {"regex": pattern}, "substitution": f"\\1:{salt}"}}}


def route_table(routes: Sequence[Document], *, kept: Document) -> Document:
    """The routes, and beside them our own record of what they mean: one file, so the two cannot disagree."""
    return {"@type": TYPE + "envoy.config.route.v3.RouteConfiguration", "name": "routes",
            "metadata": {"filter_metadata": {OURS: kept}}, "validate_clusters": False,
            "virtual_hosts": [{"name": "api", "domains": ["*"],
                               "include_request_attempt_count": True,  # the prediction log tells tries apart by it
                               "routes": list(routes)}]}
