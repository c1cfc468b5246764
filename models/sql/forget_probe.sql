-- Asterisk's rows of a call that `trunkline doctor` made, of both halves of its channel.
DELETE FROM cel WHERE uniqueid = ANY (%(ids)s::text[])
