-- Who churned after $cut, as far as had arrived by $as_of: one row a customer known at the cut. The table
-- holds the latest version of each row that had arrived by $as_of; the window is [cut, window_end).
SELECT
    customer_id,
    NOT bool_or(ordered_at >= $cut AND ordered_at < $window_end) AS churned
FROM orders
GROUP BY customer_id
HAVING min(ordered_at) < $cut
