"""The tables as SQLAlchemy sees them, for everything that is not the hot path.

The DDL, with its triggers, views, checks and rights, is `migrations/versions/*.sql`; a test compares
the columns here with a migrated database.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData()

_when = DateTime(timezone=True)

trunks = Table(
    "trunks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("provider", Text),
    Column("auth_type", Text, nullable=False),
    Column("ip_identifiers", ARRAY(Text), nullable=False),
    Column("allow", Text, nullable=False),
    Column("disallow", Text, nullable=False),
    Column("transport", Text, nullable=False),
    Column("direct_media", Boolean, nullable=False),
    Column("rtp_symmetric", Boolean, nullable=False),
    Column("force_rport", Boolean, nullable=False),
    Column("media_encryption", Text, nullable=False),
    Column("media_encryption_optimistic", Boolean, nullable=False),
    Column("qualify_frequency", Integer, nullable=False),
    Column("inbound_enabled", Boolean, nullable=False),
    Column("outbound_leading_plus_enabled", Boolean, nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("max_concurrent_calls", Integer, nullable=False),
    Column("max_calls_per_second", Double, nullable=False),
    Column("allowed_prefixes", ARRAY(Text)),
    Column("from_user", Text),
    Column("from_domain", Text),
    Column("contact_user", Text),
    Column("send_pai", Boolean, nullable=False),
    Column("created_at", _when, nullable=False),
    Column("updated_at", _when, nullable=False),
    Column("description", Text),
)

trunk_gateways = Table(
    "trunk_gateways",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("trunk_id", Uuid, ForeignKey("trunks.id"), nullable=False),
    Column("gateway_address", Text, nullable=False),
    Column("port", Integer),
    Column("priority", Integer, nullable=False),
)

gateway_health = Table(
    "gateway_health",
    metadata,
    Column("gateway_id", Uuid, ForeignKey("trunk_gateways.id"), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("last_failure", Text),
    Column("last_failure_at", _when),
    Column("rests", Integer, nullable=False),
    Column("rests_until", _when),
)

gateway_probes = Table(
    "gateway_probes",
    metadata,
    Column("gateway_id", Uuid, ForeignKey("trunk_gateways.id"), primary_key=True),
    Column("probed_at", _when, nullable=False),
    Column("finding", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("rtt_ms", Double),
    Column("seen_as", Text),
)

trunk_credentials = Table(
    "trunk_credentials",
    metadata,
    Column("trunk_id", Uuid, ForeignKey("trunks.id"), primary_key=True),
    Column("auth_username", Text, nullable=False),
    Column("auth_password", Text, nullable=False),
)

phone_numbers = Table(
    "phone_numbers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("phone_number", Text, nullable=False),
    Column("trunk_id", Uuid, ForeignKey("trunks.id"), nullable=False),
    Column("created_at", _when, nullable=False),
    Column("name", Text),
)

agents = Table(
    "agents",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("connect", Text, nullable=False),
    Column("created_at", _when, nullable=False),
    Column("fallback", Text),
    Column("max_call_seconds", Integer),
    Column("webhook_url", Text),
    Column("max_concurrent_calls", Integer),
)

agent_health = Table(
    "agent_health",
    metadata,
    Column("agent_id", Uuid, ForeignKey("agents.id"), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("last_failure_at", _when),
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("max_calls", Integer, nullable=False),
    Column("listener_epoch", BigInteger, nullable=False),
    Column("heard_at", _when),
    Column("listening_since", _when),
    Column("core_startup", Text),
    Column("started_at", _when),
    Column("version", Text),
    Column("sip_address", Text),
    Column("marks_forgotten_to", _when),
)

node_health = Table(
    "node_health",
    metadata,
    Column("node", Text, ForeignKey("nodes.name"), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("failing_since", _when),
    Column("last_failure", Text),
    Column("last_failure_at", _when),
    Column("rests", Integer, nullable=False),
    Column("rests_until", _when),
)

repairs = Table(
    "repairs",
    metadata,
    Column("what", Text, primary_key=True),
    Column("times", BigInteger, nullable=False),
    Column("last_at", _when, nullable=False),
)

roles = Table(
    "roles",
    metadata,
    Column("name", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", Text),
    Column("since", _when),
)

campaigns = Table(
    "campaigns",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("agent_id", Uuid, ForeignKey("agents.id"), nullable=False),
    Column("from_numbers", ARRAY(Text), nullable=False),
    Column("status", Text, nullable=False),
    Column("max_concurrent_calls", Integer),
    Column("header", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("accepted", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),
    Column("duplicate", BigInteger, nullable=False),
    Column("suppressed", BigInteger, nullable=False),
    Column("created_at", _when, nullable=False),
    Column("started_at", _when),
    Column("ended_at", _when),
    Column("updated_at", _when, nullable=False),
    Column("pause_reason", Text),
    Column("webhook_url", Text),
    Column("scheduled_at", _when),
    Column("file_name", Text),
    Column("retry_config", JSONB(none_as_null=True)),
    Column("bypass_call_guardrails", Boolean, nullable=False),
)

deleted_campaigns = Table(
    "deleted_campaigns",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("deleted_at", _when, nullable=False),
    Column("emptied_at", _when),
)

rejected_rows = Table(
    "rejected_rows",
    metadata,
    Column("campaign_id", Uuid, primary_key=True),
    Column("line_number", BigInteger, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("row", Text, nullable=False),
)

calls = Table(
    "calls",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("campaign_id", Uuid),
    Column("agent_id", Uuid, nullable=False),
    Column("phone_number", Text, nullable=False),
    Column("name", Text),
    Column("variables", JSONB, nullable=False),
    Column("from_number", Text),
    Column("line_number", BigInteger),
    Column("status", Text, nullable=False),
    Column("disposition", Text),
    Column("explanation", Text),
    Column("sip_code", Integer),
    Column("q850_cause", Integer),
    Column("due_at", _when, nullable=False),
    Column("current_attempt_id", Uuid),
    Column("attempts", Integer, nullable=False),
    Column("not_placed", Integer, nullable=False),
    Column("rescues", Integer, nullable=False),
    Column("created_at", _when, nullable=False),
    Column("updated_at", _when, nullable=False),
    Column("ended_at", _when),
    Column("scheduled_at", _when),
    Column("retry_config", JSONB(none_as_null=True)),
    Column("bypass_call_guardrails", Boolean, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("call_id", Uuid, ForeignKey("calls.id"), nullable=False),
    Column("campaign_id", Uuid),
    Column("trunk_id", Uuid, nullable=False),
    Column("gateway_id", Uuid, nullable=False),
    Column("node", Text, nullable=False),
    Column("dialed_number", Text, nullable=False),
    Column("from_number", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("disposition", Text),
    Column("explanation", Text),
    Column("sip_code", Integer),
    Column("q850_cause", Integer),
    Column("agent_status", Text),
    Column("hangup_by", Text),
    Column("stop_requested_at", _when),
    Column("hold_until", _when),
    Column("queued_at", _when, nullable=False),
    Column("published_at", _when, nullable=False),
    Column("initiated_at", _when),
    Column("channel_at", _when),
    Column("ringing_at", _when),
    Column("answered_at", _when),
    Column("ended_at", _when),
    Column("rescued_from", Text),
    Column("hands_over", Boolean, nullable=False),
    Column("tried_gateways", ARRAY(Uuid), nullable=False),
    Column("sip_call_id", Text),
    Column("last_reply", Integer),
    Column("rx_packets", Integer),
    Column("tx_packets", Integer),
    Column("rx_lost", Integer),
    Column("tx_lost", Integer),
    Column("codec", Text),
    Column("media_address", Text),
)

call_events = Table(
    "call_events",
    metadata,
    Column("at", _when, nullable=False),
    Column("subject", Text, nullable=False),
    Column("call_id", Uuid, nullable=False),
    Column("attempt_id", Uuid),
    Column("from_status", Text, nullable=False),
    Column("to_status", Text, nullable=False),
    Column("disposition", Text),
    Column("writer", Text, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("created_at", _when, nullable=False),
    Column("last_used_at", _when),
    Column("revoked_at", _when),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("api_key_id", Uuid, ForeignKey("api_keys.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("sha256", LargeBinary, nullable=False),
    Column("thing_id", Uuid, nullable=False),
    Column("created_at", _when, nullable=False),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("call_id", Uuid, nullable=False),
    Column("status", Text, nullable=False),
    Column("at", _when, nullable=False),
    Column("url", Text, nullable=False),
    Column("receiver", Text, nullable=False),
    Column("due_at", _when, nullable=False),
    Column("leased_until", _when),
    Column("tries", Integer, nullable=False),
    Column("last_error", Text),
    Column("given_up_at", _when),
)

webhook_keys = Table(
    "webhook_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("secret", LargeBinary, nullable=False),
    Column("url", Text),
    Column("created_at", _when, nullable=False),
)

campaign_status = Table(
    "campaign_status",
    MetaData(),  # a view: not ours to migrate
    Column("campaign_id", Uuid),
    Column("name", Text),
    Column("status", Text),
    *(
        Column(name, BigInteger)
        for name in (
            "total",
            "scheduled",
            "queued",
            "initiated",
            "ringing",
            "in_progress",
            "completed",
            "busy",
            "no_answer",
            "failed",
            "canceled",
            "unknown",
            "rejected_rows",
        )
    ),
    Column("updated_at", _when),
    Column("pause_reason", Text),
)
