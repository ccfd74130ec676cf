if DAEMON
noinst_LIBRARIES += libnet.a
libnet_a_SOURCES = \
	%D%/identity.h %D%/identity.c \
	%D%/noise.h %D%/noise.c \
	%D%/wire.h %D%/wire.c \
	%D%/peer.h %D%/peer.c \
	%D%/address.h %D%/address.c \
	%D%/link.h %D%/link_private.h %D%/link.c %D%/link_open.c \
	# end
nodist_libnet_a_SOURCES = $(proto_generated)
libnet_a_CPPFLAGS = $(AM_CPPFLAGS) $(SODIUM_CFLAGS) $(PROTOBUF_C_CFLAGS) $(UV_CFLAGS)
# `make TARGET` does not build BUILT_SOURCES first
net/libnet_a-wire.$(OBJEXT): proto/peer.pb-c.h
endif
