"""Envoy's configuration as plain values: bootstrap, listener, clusters, routes. Reads and writes nothing.

The settings were measured with killed, hung and failing backends. What each buys stands beside it;
take one away and requests are lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

Document = dict[str, Any]

CUSTOMER_HEADER: Final = "x-churn-customer"  # the service's answer: HMAC of the customer, for the log only
OURS: Final = "churn"  # namespace of our metadata inside Envoy's
GET_TRY, GET_TOTAL = "1s", "3s"  # a cold pandas pipeline answers in 15 ms; a hung worker is given up after a try
SCORE_TRY, SCORE_TOTAL = "2s", "5s"  # 1,000 rows take about 50 ms
GET_BYTES, SCORE_BYTES = 16_384, 1_048_576
WEIGHT_TOTAL: Final = 10_000  # hundredths of a percent
_TYPE = "type.googleapis.com/"


def bootstrap(*, xds: Path, admin: Path | None) -> Document:
    """Everything Envoy is told by its command line's file; the rest it reads from the folder `xds`, and again when
    a file is renamed into it."""
    def watched(name: str) -> Document:
        return {"path_config_source": {"path": str(xds / name), "watched_directory": {"path": str(xds)}},
                "resource_api_version": "V3"}

    document: Document = {
        "node": {"id": "router", "cluster": "churn"},
        "dynamic_resources": {"lds_config": watched("lds.json"), "cds_config": watched("cds.json")},
        "overload_manager": {"resource_monitors": [_named("envoy.resource_monitors.global_downstream_max_connections", {
            "@type": _TYPE + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": 1024})]},
    }
    if admin:
        document["admin"] = {"address": {"pipe": {"path": str(admin), "mode": 0o600}}}
    return document


def listener(*, host: str, port: int, xds: Path, access_log: Path) -> Document:
    """The API's address, its filters and its log."""
    manager = {
        "@type": _TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "api",
        "stream_idle_timeout": "15s", "request_timeout": "10s", "request_headers_timeout": "5s",
        "common_http_protocol_options": {"idle_timeout": "60s"},
        "normalize_path": True, "merge_slashes": True, "path_with_escaped_slashes_action": "REJECT_REQUEST",
        # Nobody is "internal" (the range is one nobody has): a client's own x-envoy-* headers and request ids are
        # replaced. Left out, loopback counts as internal, and a client can ask for 50 retries.
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "192.0.2.1", "prefix_len": 32}]},
        "server_header_transformation": "PASS_THROUGH",
        "rds": {"route_config_name": "routes", "config_source": {
            "path_config_source": {"path": str(xds / "rds.json"), "watched_directory": {"path": str(xds)}},
            "resource_api_version": "V3"}},
        "local_reply_config": {"body_format": {"json_format": {
            "error": "%LOCAL_REPLY_BODY%", "request_id": "%REQ(X-REQUEST-ID)%"}}},
        "http_filters": [
            # Copies the customer's HMAC from the answer into what the log can read, and takes it out of the answer.
            _named("envoy.filters.http.header_to_metadata", {
                "@type": _TYPE + "envoy.extensions.filters.http.header_to_metadata.v3.Config",
                "response_rules": [{"header": CUSTOMER_HEADER, "remove": True, "on_header_present": {
                    "metadata_namespace": OURS, "key": "customer", "type": "STRING"}}]}),
            # A body is held back until it is whole: else it could not be sent to the champion after the canary failed.
            _named("envoy.filters.http.buffer", {
                "@type": _TYPE + "envoy.extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": GET_BYTES}),
            _named("envoy.filters.http.router", {
                "@type": _TYPE + "envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}),
        ],
        "access_log": [_named("envoy.access_loggers.file", {
            "@type": _TYPE + "envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": str(access_log),
            "log_format": {"json_format": ACCESS_LOG}})],
    }
    return {
        "@type": _TYPE + "envoy.config.listener.v3.Listener", "name": "api", "address": _address(host, port),
        "per_connection_buffer_limit_bytes": 2 * SCORE_BYTES, "enable_reuse_port": False,
        "filter_chains": [{"filters": [_named("envoy.filters.network.http_connection_manager", manager)]}],
    }


# One line a request. No path: the customer's id stands in it; the route's name says what was asked.
ACCESS_LOG: Final[Mapping[str, str]] = {
    "ts": "%START_TIME(%Y-%m-%dT%H:%M:%E3SZ)%", "method": "%REQ(:METHOD)%", "route": "%ROUTE_NAME%",
    "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%", "ms": "%DURATION%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%", "upstream": "%UPSTREAM_HOST%",
    "answered_by": f"%METADATA(UPSTREAM_HOST:{OURS}:release_id)%", "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "request_id": "%REQ(X-REQUEST-ID)%", "customer": f"%DYNAMIC_METADATA({OURS}:customer)%",
    "rollout": f"%METADATA(ROUTE:{OURS}:rollout)%", "share": f"%METADATA(ROUTE:{OURS}:share)%",
    "bytes_in": "%BYTES_RECEIVED%", "bytes_out": "%BYTES_SENT%",
}


def cluster(name: str, host: str, *, upstreams: Sequence[tuple[str, int]]) -> Document:
    """One arm: `(release id, port)` in order of priority, the later ones only where the earlier failed.

    The last is never taken out: a cluster whose only endpoint is ejected answers 503 to everybody.
    The ones before it are probed, so that a hung canary costs its users one probe's time, not every request.
    """
    last = len(upstreams) - 1
    return {
        "@type": _TYPE + "envoy.config.cluster.v3.Cluster", "name": name, "type": "STATIC",
        "connect_timeout": "0.25s", "lb_policy": "ROUND_ROBIN",
        "load_assignment": {"cluster_name": name, "endpoints": [
            {"priority": rank, "lb_endpoints": [{
                "endpoint": {**_address(host, port, key="address"),
                             "health_check_config": {"disable_active_health_check": rank == last}},
                "metadata": {"filter_metadata": {OURS: {"release_id": release_id}}}}]}
            for rank, (release_id, port) in enumerate(upstreams)]},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        # Envoy's own limit of 3 retries at once is what loses requests when a canary dies under load.
        "circuit_breakers": {"thresholds": [{"max_connections": 1024, "max_pending_requests": 1024,
                                             "max_requests": 1024, "max_retries": 1000}]},
        # Uvicorn closes an idle connection after 5 s; Envoy must be first, or a request meets the closing one.
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"idle_timeout": "3s"},
            "explicit_http_config": {"http_protocol_options": {}}}},
        **({"health_checks": [{"timeout": "1s", "interval": "1s", "no_traffic_interval": "1s",
                               "unhealthy_interval": "0.5s", "unhealthy_threshold": 2, "healthy_threshold": 1,
                               "http_health_check": {"path": "/readyz"}}]} if last else {}),
    }


def proxied(name: str, match: Document, *, target: Document, score: bool, share: float | None = None,
            rollout: str = "", key: Document | None = None) -> Document:
    """A route to a release.

    Args:
        target: `{"cluster": ...}` or `{"weighted_clusters": ...}`.
        score: the body and the time of a batch.
        share, rollout: logged with each request that was dealt to an arm.
        key: the hash policy that names the customer.
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
            "retry_host_predicate": [_named("envoy.retry_host_predicates.previous_hosts", {
                "@type": _TYPE + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"})],
            # The second try goes to the next priority: from the canary to the champion, in the same request.
            "retry_priority": _named("envoy.retry_priorities.previous_priorities", {
                "@type": _TYPE + "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 1}),
        },
    }
    if key:
        action["hash_policy"] = [{**key, "terminal": True}]
    route: Document = {"name": name, "match": match, "route": action}
    if share is not None:
        route["metadata"] = {"filter_metadata": {OURS: {"rollout": rollout, "share": f"{share:g}"}}}
    if score:
        route["typed_per_filter_config"] = {"envoy.filters.http.buffer": {
            "@type": _TYPE + "envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
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


def discovery(version: str, resources: Sequence[Document]) -> Document:
    """What an xDS file holds."""
    return {"version_info": version, "resources": list(resources)}


def route_table(routes: Sequence[Document], *, kept: Document) -> Document:
    """The routes, and beside them our own record of what they mean: one file, so the two cannot disagree."""
    return {"@type": _TYPE + "envoy.config.route.v3.RouteConfiguration", "name": "routes",
            "metadata": {"filter_metadata": {OURS: kept}}, "validate_clusters": False,
            "virtual_hosts": [{"name": "api", "domains": ["*"],
                               "include_request_attempt_count": True,  # the prediction log tells tries apart by it
                               "routes": list(routes)}]}


def _named(name: str, config: Document) -> Document:
    return {"name": name, "typed_config": config}


def _address(host: str, port: int, *, key: str = "") -> Document:
    socket = {"socket_address": {"address": host, "port_value": port}}
    return {key: socket} if key else socket
