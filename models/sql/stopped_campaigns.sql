-- Stopped campaigns that still have calls to make: those that came back after the stop, or were left by one that died.
SELECT campaign_id FROM campaign_status WHERE status = 'stopped' AND scheduled > 0
