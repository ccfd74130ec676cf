man_MANS = doc/man/sakiorid.conf.5 doc/man/sakiorid.8 doc/man/sakiori.1
EXTRA_DIST += $(man_MANS) doc/ARCHITECTURE.md doc/PROTOCOL.md doc/FORMATS.md doc/adr
