noinst_LIBRARIES += libcompute.a
libcompute_a_SOURCES = \
	%D%/compute.h \
	%D%/cpu/quantize.h %D%/cpu/quantize.c \
	# end
