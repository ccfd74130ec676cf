man_MANS = doc/man/sakiorid.conf.5
EXTRA_DIST += $(man_MANS) doc/ARCHITECTURE.md doc/PROTOCOL.md doc/FORMATS.md doc/adr
