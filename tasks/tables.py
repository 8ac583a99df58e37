"""The tables of our state. Reads and writes nothing; `tasks.state` opens the store."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()

DECISIONS = sa.Table(
    "decisions", METADATA,
    sa.Column("decision_id", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),  # wall time, ISO 8601 UTC
    sa.Column("as_of", sa.String),  # platform clock, ISO 8601 UTC
    sa.Column("gate", sa.String, nullable=False),
    sa.Column("verdict", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("evidence", sa.String, nullable=False),  # JSON
    sa.Column("subject", sa.String),  # model version, release or batch the verdict is about
    sa.Column("flow_run_id", sa.String),
    sa.Index("verdicts_of_a_gate", "gate", "at"),  # else each question to the ledger reads all of it
)
LOADS = sa.Table(  # one row a committed ingest: the watermark is the latest as_of
    "loads", METADATA,
    sa.Column("as_of", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("counts", sa.String, nullable=False),  # JSON: table -> rows in, kept, quarantined, redelivered
    sa.Column("dataset_version", sa.String, nullable=False),
)
PARTITIONS = sa.Table(  # the manifest: the committed files of raw and quarantine
    "partitions", METADATA,
    sa.Column("path", sa.String, primary_key=True),  # relative to the lake
    sa.Column("table_name", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),  # raw, quarantine
    sa.Column("as_of", sa.String, nullable=False),  # of the load it belongs to
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
)
SOURCE_FILES = sa.Table(  # which source files a table has taken in, so that an unchanged one is not read again
    "source_files", METADATA,
    sa.Column("table_name", sa.String, primary_key=True),
    sa.Column("path", sa.String, primary_key=True),
    sa.Column("as_of", sa.String, nullable=False),  # of the load that read it last
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False),  # false: some of its rows had not arrived by that load
    sa.Column("mapping", sa.String, nullable=False),  # JSON, ours: theirs
    sa.Column("totals", sa.String, nullable=False),  # JSON, what its control file said of it
)
WATERMARKS = sa.Table(  # how far a database source has been read
    "watermarks", METADATA,
    sa.Column("table_name", sa.String, primary_key=True),
    sa.Column("as_of", sa.String, nullable=False),
    sa.Column("watermark", sa.String, nullable=False),  # ISO 8601 UTC: all that had landed up to it was taken in
    sa.Column("since", sa.String, nullable=False),  # ISO 8601 UTC: the next load reads from here, the overlap before it
    sa.Column("rows_before", sa.BigInteger, nullable=False),  # of the source with a watermark before `since`
    sa.Column("fingerprint", sa.String, nullable=False),  # of those rows, an integer: the sum of their hashes
    sa.Column("mapping", sa.String, nullable=False),  # JSON, ours: theirs
    sa.Column("reading", sa.String, nullable=False),  # JSON: host, database, query; another one is read from the start
)
SOURCE_TYPES = sa.Table(  # in which types a typed source (Parquet, a database) has delivered
    "source_types", METADATA,
    sa.Column("table_name", sa.String, primary_key=True),
    sa.Column("reading", sa.String, nullable=False),  # JSON: path or database, query and columns; another one is new
    sa.Column("types", sa.String, nullable=False),  # JSON: their column -> families, such as ["decimal"]
)
QUALITY = sa.Table(  # the scorecard: one row a load, table and dimension of data quality
    "quality", METADATA,
    sa.Column("as_of", sa.String, primary_key=True),
    sa.Column("table_name", sa.String, primary_key=True),
    sa.Column("dimension", sa.String, primary_key=True),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("failing", sa.Integer, nullable=False),
    sa.Column("score", sa.Float),  # null: no new rows to judge
    sa.Column("detail", sa.String, nullable=False),  # JSON: rows failing per check, measures and their limits
)
SHIPPED = sa.Table(  # how far each piece of the prediction log went into the lake
    "shipped", METADATA,
    sa.Column("piece", sa.String, primary_key=True),  # hash of its first prediction: a rename does not change it
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("at", sa.String, nullable=False),
)
HEARTBEATS = sa.Table(  # when each part last did its work: `tasks.monitoring.heartbeats`
    "heartbeats", METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),  # wall time, ISO 8601 UTC
    sa.Column("as_of", sa.String),  # platform clock of what it worked on, where it has one
)
AWAKE = sa.Table(  # stretches in which the platform ran and its machine did not sleep: `tasks.monitoring.awake`
    "awake", METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("began", sa.String, nullable=False),  # wall time, ISO 8601 UTC
    sa.Column("ended", sa.String, nullable=False),  # the watchdog moves it along, round by round
)
SIGNALS = sa.Table(  # what the latest date showed, for the metrics: `tasks.monitoring.heartbeats.note_signals`
    "signals", METADATA,
    sa.Column("name", sa.String, primary_key=True),  # labels, performance, concept, quality
    sa.Column("at", sa.String, nullable=False),  # wall time, ISO 8601 UTC
    sa.Column("as_of", sa.String, nullable=False),  # platform clock of the check
    sa.Column("state", sa.String, nullable=False),  # good, bad, waiting, broken
    sa.Column("evidence", sa.String, nullable=False),  # JSON
)
FORGOTTEN = sa.Table(  # who was erased, as a salted hash: their rows do not come back from a source
    "forgotten", METADATA,
    sa.Column("entity_hash", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
)
CLOCK = sa.Table("clock", METADATA, sa.Column("name", sa.String, primary_key=True), sa.Column("as_of", sa.String))
RELEASES = sa.Table(
    "releases", METADATA,
    sa.Column("release_id", sa.String, primary_key=True),  # the Bento's tag
    sa.Column("model_version", sa.String, nullable=False),
    sa.Column("run_id", sa.String, nullable=False),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("as_of", sa.String, nullable=False),
    sa.Column("auc", sa.Float, nullable=False),
    sa.Column("monthly_value", sa.Float, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("port", sa.Integer),  # loopback port while its process is wanted, else null
    sa.Index("one_release_a_port", "port", unique=True),
)
ROLLOUTS = sa.Table(
    "rollouts", METADATA,
    sa.Column("rollout_id", sa.String, primary_key=True),
    sa.Column("release_id", sa.String, nullable=False),
    sa.Column("champion_id", sa.String),  # the release that was champion when it was opened
    sa.Column("strategy", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),  # see tasks.release.rollouts
    sa.Column("stage", sa.Integer, nullable=False),  # index into the charter's stages
    sa.Column("who", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("opened_at", sa.String, nullable=False),
    sa.Column("stage_since", sa.String, nullable=False),
    sa.Column("closed_at", sa.String),
    sa.Column("reason", sa.String),
    sa.Column("evidence", sa.String, nullable=False),  # JSON: where in the access log its present state began
    sa.Column("last_look_at", sa.String),  # when the judge last gave a verdict on it
    sa.Column("paused_at", sa.String),  # null while it is not paused
    sa.Column("paused_by", sa.String),
    sa.Column("paused_why", sa.String),
    sa.Column("paused_seconds", sa.Float),  # that its present stage has been paused before; null: never
    sa.Column("baked_at", sa.String),
)
# At most one rollout is open, whoever opens how many at once: an open one has no `closed_at`.
sa.Index("one_open_rollout", ROLLOUTS.c.closed_at.is_(None), unique=True,
         sqlite_where=ROLLOUTS.c.closed_at.is_(None), postgresql_where=ROLLOUTS.c.closed_at.is_(None))
LOOKS = sa.Table(  # what the judge saw of a rollout, and said, each time it looked
    "looks", METADATA,
    sa.Column("rollout_id", sa.String, primary_key=True),
    sa.Column("at", sa.String, primary_key=True),  # wall time, ISO 8601 UTC
    sa.Column("state", sa.String, nullable=False),  # shadow, canary
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("verdict", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("e_values", sa.String, nullable=False),  # JSON: monitor -> e-value; none where there was no evidence
    sa.Column("evidence", sa.String, nullable=False),  # JSON
)
CONCEPT_STREAMS = sa.Table(  # the e-detector of concept drift, one row a release: how far it is
    "concept_streams", METADATA,
    sa.Column("release_id", sa.String, primary_key=True),
    sa.Column("limit_excess", sa.Float, nullable=False),  # mean Brier excess its bets are against; fixed with the first
    sa.Column("cohorts", sa.Integer, nullable=False),  # bet on so far: each change compares and sets it
    sa.Column("log_sums", sa.String, nullable=False),  # JSON: the sum after them, a stake each
)
CONCEPT_COHORTS = sa.Table(  # what each cohort was worth as bets: it is never bet on twice
    "concept_cohorts", METADATA,
    sa.Column("release_id", sa.String, primary_key=True),
    sa.Column("cohort", sa.String, primary_key=True),  # the cut, ISO 8601 UTC
    sa.Column("number", sa.Integer, nullable=False),  # from 0, in the order of the bets
    sa.Column("as_of", sa.String, nullable=False),  # platform clock at the bet: what it knew
    sa.Column("at", sa.String, nullable=False),  # wall time
    sa.Column("months", sa.Float, nullable=False),  # it stands for
    sa.Column("rows", sa.Integer, nullable=False),  # bet on
    sa.Column("brier", sa.Float, nullable=False),  # weighted means of those rows
    sa.Column("excess", sa.Float, nullable=False),
    sa.Column("largest_weight", sa.Float, nullable=False),
    sa.Column("log_e", sa.String, nullable=False),  # JSON: a stake each
)
sa.Index("one_cohort_a_number", CONCEPT_COHORTS.c.release_id, CONCEPT_COHORTS.c.number, unique=True)
USED_DECISIONS = sa.Table(
    "used_decisions", METADATA,
    sa.Column("decision_id", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("flow_run_id", sa.String),
)
TOLD = sa.Table(  # which verdict went out by which medium: `event`, `notification`
    "told", METADATA,
    sa.Column("decision_id", sa.String, primary_key=True),
    sa.Column("medium", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),  # wall time it was last tried
    sa.Column("done", sa.Boolean, nullable=False),
    sa.Column("fault", sa.String),  # why it did not go out
)
APPROVALS = sa.Table(  # a person's word on a release that waits: tasks.release.approval
    "approvals", METADATA,
    sa.Column("approval_id", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),  # wall time, ISO 8601 UTC
    sa.Column("model_version", sa.String, nullable=False),
    sa.Column("release_id", sa.String, nullable=False),
    sa.Column("verdict", sa.String, nullable=False),  # approve, reject
    sa.Column("who", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("seen", sa.String, nullable=False),  # JSON: `evidence_now` when it was given
    sa.Column("used_at", sa.String),
    sa.Column("number", sa.Integer),  # from 1, in the order they were given; a store of before has words without one
    sa.Index("one_approval_a_number", "number", unique=True),
)
