"""Envoy's configuration as plain values: bootstrap, listener, limit a client, log. Reads and writes nothing.

Clusters and routes are in `tasks.release.envoy_routes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

Document = dict[str, Any]

CUSTOMER_HEADER: Final = "x-churn-customer"  # the service's answer: HMAC of the customer, for the log only
OURS: Final = "churn"  # namespace of our metadata inside Envoy's
GET_BYTES, SCORE_BYTES = 16_384, 1_048_576
CLIENTS_AN_ADDRESS: Final = 10  # may share one; without such a limit an invented key a request is no limit at all
BUCKETS: Final = 10_000  # of clients held at once, the longest unseen one forgotten first
TYPE: Final = "type.googleapis.com/"


def bootstrap(*, xds: Path, admin: Path | None) -> Document:
    """Everything Envoy is told by its command line's file; the rest it reads from the folder `xds`, and again when
    a file is renamed into it."""
    def watched(name: str) -> Document:
        return {"path_config_source": {"path": str(xds / name), "watched_directory": {"path": str(xds)}},
                "resource_api_version": "V3"}

    document: Document = {
        "node": {"id": "router", "cluster": "churn"},
        "dynamic_resources": {"lds_config": watched("lds.json"), "cds_config": watched("cds.json")},
        "overload_manager": {"resource_monitors": [named("envoy.resource_monitors.global_downstream_max_connections", {
            "@type": TYPE + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": 1024})]},
    }
    if admin:
        document["admin"] = {"address": {"pipe": {"path": str(admin), "mode": 0o600}}}
    return document


def listener(*, host: str, port: int, xds: Path, access_log: Path, rate_limit: int = 0) -> Document:
    """The API's address, its filters and its log; `rate_limit` in requests a second a client, 0 for none."""
    manager = {
        "@type": TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
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
            "error": "%LOCAL_REPLY_BODY%", "request_id": "%REQ(X-REQUEST-ID)%"}}, "mappers": [
                _reply(400, "the request is no HTTP that is taken here; nor is a path with an encoded slash or null"),
                _reply(429, f"more than {rate_limit} requests a second from one client; wait a second and try again"),
                _reply(503, None, {"retry-after": "1"})]},
        "http_filters": [
            *([_limit_a_client(rate_limit)] if rate_limit else []),
            # Copies the customer's HMAC from the answer into what the log can read, and takes it out of the answer.
            named("envoy.filters.http.header_to_metadata", {
                "@type": TYPE + "envoy.extensions.filters.http.header_to_metadata.v3.Config",
                "response_rules": [{"header": CUSTOMER_HEADER, "remove": True, "on_header_present": {
                    "metadata_namespace": OURS, "key": "customer", "type": "STRING"}}]}),
            # A body is held back until it is whole: else it could not be sent to the champion after the canary failed.
            named("envoy.filters.http.buffer", {
                "@type": TYPE + "envoy.extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": GET_BYTES}),
            named("envoy.filters.http.router", {
                "@type": TYPE + "envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}),
        ],
        "access_log": [named("envoy.access_loggers.file", {
            "@type": TYPE + "envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": str(access_log),
            "log_format": {"json_format": ACCESS_LOG}})],
    }
    return {
        "@type": TYPE + "envoy.config.listener.v3.Listener", "name": "api", "address": socket_address(host, port),
        "per_connection_buffer_limit_bytes": 2 * SCORE_BYTES, "enable_reuse_port": False,
        "filter_chains": [{"filters": [named("envoy.filters.network.http_connection_manager", manager)]}],
    }


# One line a request. No path: the customer's id stands in it; the route's name says what was asked.
ACCESS_LOG: Final[Mapping[str, str]] = {
    "ts": "%START_TIME(%Y-%m-%dT%H:%M:%E3SZ)%", "method": "%REQ(:METHOD)%", "route": "%ROUTE_NAME%",
    "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%", "ms": "%DURATION%",
    "us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",  # first byte in to last byte out
    "cluster": "%UPSTREAM_CLUSTER_RAW%", "upstream": "%UPSTREAM_HOST%",
    "answered_by": f"%METADATA(UPSTREAM_HOST:{OURS}:release_id)%", "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "request_id": "%REQ(X-REQUEST-ID)%", "customer": f"%DYNAMIC_METADATA({OURS}:customer)%",
    "rollout": f"%METADATA(ROUTE:{OURS}:rollout)%", "share": f"%METADATA(ROUTE:{OURS}:share)%",
    "shadow": f"%METADATA(ROUTE:{OURS}:shadow)%",
    "bytes_in": "%BYTES_RECEIVED%", "bytes_out": "%BYTES_SENT%",
}


def _reply(status: int, text: str | None, headers: Mapping[str, str] | None = None) -> Document:
    """What Envoy answers by itself with a status: its text (None: Envoy's own) and headers beside."""
    return {"filter": {"status_code_filter": {"comparison": {"op": "EQ", "value": {
        "default_value": status, "runtime_key": "none"}}}},
            **({"body": {"inline_string": text}} if text else {}),
            "headers_to_add": [{"header": {"key": key, "value": value}} for key, value in (headers or {}).items()]}


def _limit_a_client(limit: int) -> Document:
    """Token buckets, one a client: its API key where it sends one, else its address; 429 when empty.

    Keys are looked at by the service alone, so here any key is a client; hence a wider bucket an address too.
    Buckets are made as clients come (an entry without a value stands for each value seen).
    """
    def bucket(rate: int) -> Document:
        return {"max_tokens": rate, "tokens_per_fill": rate, "fill_interval": "1s"}

    def keyed(match: bool) -> Document:
        return {"header_value_match": {"descriptor_key": "keyed", "descriptor_value": str(match).lower(),
                                       "expect_match": match,
                                       "headers": [{"name": "authorization", "present_match": True}]}}

    address: Document = {"remote_address": {}}
    key = {"request_headers": {"header_name": "authorization", "descriptor_key": "key"}}
    return named("envoy.filters.http.local_ratelimit", {
        "@type": TYPE + "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "client",
        "token_bucket": bucket(limit * CLIENTS_AN_ADDRESS),  # of what matches no descriptor: nothing does
        "always_consume_default_token_bucket": False,
        **{name: {"default_value": {"numerator": 100}} for name in ("filter_enabled", "filter_enforced")},
        "response_headers_to_add": [{"header": {"key": "retry-after", "value": "1"}}],
        "rate_limits": [{"actions": [address]}, {"actions": [keyed(False), address]}, {"actions": [keyed(True), key]}],
        "max_dynamic_descriptors": BUCKETS,
        "descriptors": [
            {"entries": [{"key": "remote_address"}], "token_bucket": bucket(limit * CLIENTS_AN_ADDRESS)},
            {"entries": [{"key": "keyed", "value": "false"}, {"key": "remote_address"}], "token_bucket": bucket(limit)},
            {"entries": [{"key": "keyed", "value": "true"}, {"key": "key"}], "token_bucket": bucket(limit)},
        ],
    })


def discovery(version: str, resources: Sequence[Document]) -> Document:
    """What an xDS file holds."""
    return {"version_info": version, "resources": list(resources)}


def named(name: str, config: Document) -> Document:
    """An extension of Envoy's, by name."""
    return {"name": name, "typed_config": config}


def socket_address(host: str, port: int, *, key: str = "") -> Document:
    """Where to listen or connect, under `key` where one is given."""
    socket = {"socket_address": {"address": host, "port_value": port}}
    return {key: socket} if key else socket
