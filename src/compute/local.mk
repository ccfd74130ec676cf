noinst_LIBRARIES += libcompute.a
libcompute_a_SOURCES = \
	%D%/compute.h \
	# end
