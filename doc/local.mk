man_MANS =
EXTRA_DIST += $(man_MANS) doc/ARCHITECTURE.md doc/PROTOCOL.md doc/FORMATS.md doc/adr
