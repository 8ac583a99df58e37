-- One row a customer at $cut. The tables hold the latest version of each row that had happened and
-- arrived before the cut (tasks/features/snapshots.py hands them over so), windows are [cut - n days, cut).
-- Sums are of whole numbers and decimals, in any order the same; a double is made of them last.
WITH in_order AS (
    SELECT
        customer_id, ordered_at, items, amount,
        epoch_us(ordered_at) // 1000000 - lag(epoch_us(ordered_at) // 1000000) OVER by_time AS gap_seconds,
        lead(ordered_at) OVER by_time IS NULL AS is_last
    FROM orders
    -- Two orders at one instant: the larger one is the later, so that the last order is always the same one.
    WINDOW by_time AS (PARTITION BY customer_id ORDER BY ordered_at, amount)
),
per_customer AS (
    SELECT
        customer_id,
        max(ordered_at) AS last_at,
        min(ordered_at) AS first_at,
        count(*) AS orders_total,
        count(*) FILTER (ordered_at >= $cut - INTERVAL 7 DAYS) AS orders_7d,
        count(*) FILTER (ordered_at >= $cut - INTERVAL 30 DAYS) AS orders_30d,
        count(*) FILTER (ordered_at >= $cut - INTERVAL 90 DAYS) AS orders_90d,
        count(*) FILTER (ordered_at >= $cut - INTERVAL 180 DAYS) AS orders_180d,
        count(*) FILTER (ordered_at >= $cut - INTERVAL 180 DAYS AND isodow(ordered_at) >= 6) AS weekend_orders_180d,
        coalesce(sum(amount) FILTER (ordered_at >= $cut - INTERVAL 7 DAYS), 0) AS spend_7d,
        coalesce(sum(amount) FILTER (ordered_at >= $cut - INTERVAL 30 DAYS), 0) AS spend_30d,
        coalesce(sum(amount) FILTER (ordered_at >= $cut - INTERVAL 90 DAYS), 0) AS spend_90d,
        coalesce(sum(amount) FILTER (ordered_at >= $cut - INTERVAL 180 DAYS), 0) AS spend_180d,
        sum(amount) AS spend_total,
        max(amount) AS max_order,
        max(amount) FILTER (is_last) AS last_order,
        coalesce(sum(items) FILTER (ordered_at >= $cut - INTERVAL 90 DAYS), 0) AS items_90d,
        max(gap_seconds) AS longest_gap,
        max(gap_seconds) FILTER (is_last) AS last_gap,
        sum(gap_seconds) AS gap_sum,
        count(gap_seconds) FILTER (ordered_at >= $cut - INTERVAL 180 DAYS) AS gaps_180d,
        sum(gap_seconds) FILTER (ordered_at >= $cut - INTERVAL 180 DAYS) AS gap_sum_180d,
        sum(gap_seconds * gap_seconds) FILTER (ordered_at >= $cut - INTERVAL 180 DAYS) AS gap_squares_180d
    FROM in_order
    GROUP BY customer_id
),
in_days AS (
    SELECT
        *,
        (epoch_us($cut) - epoch_us(last_at)) / 86400e6 AS recency_days,
        (epoch_us($cut) - epoch_us(first_at)) / 86400e6 AS first_order_days,
        gap_sum / 86400e0 / nullif(orders_total - 1, 0) AS mean_gap_days
    FROM per_customer
),
customer_history AS (
    SELECT
        customer_id, updated_at, signed_up_at, birth_year, plan, channel,
        lead(updated_at) OVER by_time IS NULL AS is_latest,
        plan <> lag(plan) OVER by_time AND updated_at >= $cut - INTERVAL 180 DAYS AS plan_changed
    FROM customers
    WINDOW by_time AS (PARTITION BY customer_id ORDER BY updated_at)
),
latest_customer AS (
    SELECT
        customer_id,
        max(signed_up_at) FILTER (is_latest) AS signed_up_at,
        max(birth_year) FILTER (is_latest) AS birth_year,
        max(plan) FILTER (is_latest) AS plan,
        max(channel) FILTER (is_latest) AS channel,
        count(*) FILTER (plan_changed) AS plan_changes_180d
    FROM customer_history
    GROUP BY customer_id
)
SELECT
    o.customer_id,
    $eligible_within_days IS NULL OR o.recency_days <= $eligible_within_days AS eligible,
    o.recency_days,
    o.first_order_days,
    o.orders_7d,
    o.orders_30d,
    o.orders_90d,
    o.orders_180d,
    o.orders_total,
    ln((o.orders_30d + 1) / (o.orders_90d / 3 + 1)) AS orders_trend,
    CAST(o.spend_7d AS DOUBLE) AS spend_7d,
    CAST(o.spend_30d AS DOUBLE) AS spend_30d,
    CAST(o.spend_90d AS DOUBLE) AS spend_90d,
    CAST(o.spend_180d AS DOUBLE) AS spend_180d,
    CAST(o.spend_total AS DOUBLE) AS spend_total,
    ln((CAST(o.spend_30d AS DOUBLE) + 1) / (CAST(o.spend_90d AS DOUBLE) / 3 + 1)) AS spend_trend,
    CAST(o.spend_total AS DOUBLE) / o.orders_total AS mean_order,
    CAST(o.spend_90d AS DOUBLE) / nullif(o.orders_90d, 0) AS mean_order_90d,
    CAST(o.max_order AS DOUBLE) AS max_order,
    CAST(o.last_order AS DOUBLE) AS last_order,
    CAST(o.items_90d AS BIGINT) AS items_90d,
    o.mean_gap_days,
    -- Standard deviation over mean of m gaps with sum s and sum of squares q: sqrt(m q - s^2) / s, in whole seconds.
    CASE WHEN o.gaps_180d > 1 THEN
        sqrt(CAST(o.gaps_180d * o.gap_squares_180d - o.gap_sum_180d * o.gap_sum_180d AS DOUBLE))
        / nullif(o.gap_sum_180d, 0)
    END AS gap_variation_180d,
    o.longest_gap / 86400e0 AS longest_gap_days,
    o.last_gap / 86400e0 AS last_gap_days,
    o.last_gap / 86400e0 / nullif(o.mean_gap_days, 0) AS last_gap_ratio,
    o.recency_days / nullif(o.mean_gap_days, 0) AS overdue_ratio,
    o.weekend_orders_180d / nullif(o.orders_180d, 0) AS weekend_share_180d,
    CAST(date_part('year', $cut) - c.birth_year AS DOUBLE) AS age_years,
    greatest((epoch_us($cut) - epoch_us(c.signed_up_at)) / 86400e6, 0) AS tenure_days,
    c.plan,
    c.plan_changes_180d,
    c.channel
FROM in_days AS o
LEFT JOIN latest_customer AS c USING (customer_id)
