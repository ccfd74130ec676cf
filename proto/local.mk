EXTRA_DIST += %D%/peer.proto
proto_generated = %D%/peer.pb-c.c %D%/peer.pb-c.h
if DAEMON
BUILT_SOURCES += $(proto_generated)
CLEANFILES += $(proto_generated)
endif
%D%/peer.pb-c.h: %D%/peer.pb-c.c
%D%/peer.pb-c.c: %D%/peer.proto
	@$(MKDIR_P) $(@D)
	$(AM_V_GEN)$(PROTOC_C) --c_out=$(top_builddir) -I$(top_srcdir) $<
