"""What stands around the rows of COPY's binary format, as the manual's page on COPY has it."""

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
#: With no flags, and no extension.
HEADER = SIGNATURE + bytes(8)
#: A field count of -1.
TRAILER = b"\xff\xff"
