SELECT machine_id, bool_or(status = 'failure' AND read_at >= $cut AND read_at < $window_end) AS failed
FROM readings
GROUP BY machine_id
HAVING min(read_at) < $cut
