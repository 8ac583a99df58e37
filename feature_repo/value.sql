-- What each customer known at $cut spent in [cut, window_end), as far as had arrived by $as_of.
SELECT
    customer_id,
    CAST(coalesce(sum(amount) FILTER (ordered_at >= $cut AND ordered_at < $window_end), 0) AS DOUBLE) AS value_90d
FROM orders
GROUP BY customer_id
HAVING min(ordered_at) < $cut
