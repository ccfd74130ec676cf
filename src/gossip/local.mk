noinst_LIBRARIES += libgossip.a
libgossip_a_SOURCES = \
	%D%/codec.h %D%/codec.c \
	%D%/mix.h %D%/mix.c \
	%D%/topology.h %D%/topology.c \
	%D%/round.h %D%/round.c \
	%D%/round_private.h %D%/round_rows.c \
	%D%/edge.h %D%/edge.c \
	# end
# Both ends of an edge compute the same bits, whatever they were built for: no fused multiply-add.
libgossip_a_CFLAGS = $(AM_CFLAGS) -ffp-contract=off
