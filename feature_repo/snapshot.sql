-- One row a customer at $cut. The tables hold the latest version of each row that had happened and
-- arrived before the cut (tasks/snapshots.py hands them over so), windows are [cut - n days, cut).
WITH per_customer AS (
    SELECT
        customer_id,
        max(ordered_at) AS last_order,
        min(ordered_at) AS first_order,
        count(*) AS orders_total,
        count(*) FILTER (ordered_at >= $cut - INTERVAL 30 DAYS) AS orders_30d,
        count(*) FILTER (ordered_at >= $cut - INTERVAL 90 DAYS) AS orders_90d,
        count(*) FILTER (ordered_at >= $cut - INTERVAL 180 DAYS) AS orders_180d,
        coalesce(sum(amount) FILTER (ordered_at >= $cut - INTERVAL 30 DAYS), 0) AS spend_30d,
        coalesce(sum(amount) FILTER (ordered_at >= $cut - INTERVAL 90 DAYS), 0) AS spend_90d,
        coalesce(sum(amount) FILTER (ordered_at >= $cut - INTERVAL 180 DAYS), 0) AS spend_180d,
        sum(amount) AS spend_total,
        max(amount) AS max_order,
        coalesce(sum(items) FILTER (ordered_at >= $cut - INTERVAL 90 DAYS), 0) AS items_90d
    FROM orders
    GROUP BY customer_id
),
in_days AS (
    SELECT
        *,
        (epoch_us($cut) - epoch_us(last_order)) / 86400e6 AS recency_days,
        (epoch_us($cut) - epoch_us(first_order)) / 86400e6 AS first_order_days,
        CASE WHEN orders_total > 1
             THEN (epoch_us(last_order) - epoch_us(first_order)) / 86400e6 / (orders_total - 1) END AS mean_gap_days
    FROM per_customer
),
latest_customer AS (
    SELECT * FROM customers QUALIFY row_number() OVER (PARTITION BY customer_id ORDER BY updated_at DESC) = 1
)
SELECT
    o.customer_id,
    $eligible_within_days IS NULL OR o.recency_days <= $eligible_within_days AS eligible,
    o.recency_days,
    o.first_order_days,
    o.orders_30d,
    o.orders_90d,
    o.orders_180d,
    o.orders_total,
    CAST(o.spend_30d AS DOUBLE) AS spend_30d,
    CAST(o.spend_90d AS DOUBLE) AS spend_90d,
    CAST(o.spend_180d AS DOUBLE) AS spend_180d,
    CAST(o.spend_total AS DOUBLE) AS spend_total,
    CAST(o.spend_90d AS DOUBLE) / nullif(o.orders_90d, 0) AS mean_order_90d,
    CAST(o.spend_total AS DOUBLE) / o.orders_total AS mean_order,
    CAST(o.max_order AS DOUBLE) AS max_order,
    CAST(o.items_90d AS BIGINT) AS items_90d,
    o.mean_gap_days,
    o.recency_days / nullif(o.mean_gap_days, 0) AS overdue_ratio,
    ln((CAST(o.spend_30d AS DOUBLE) + 1) / (CAST(o.spend_90d AS DOUBLE) / 3 + 1)) AS spend_trend,
    CAST(date_part('year', $cut) - c.birth_year AS DOUBLE) AS age_years,
    greatest((epoch_us($cut) - epoch_us(c.signed_up_at)) / 86400e6, 0) AS tenure_days,
    c.plan,
    c.channel
FROM in_days AS o
LEFT JOIN latest_customer AS c USING (customer_id)
