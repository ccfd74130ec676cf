# What people copy from; `sakiori init` writes a configuration of one's own.
exampledir = $(docdir)/examples
dist_example_DATA = \
	%D%/sakiorid.conf \
	systemd/sakiorid-gpu.conf \
	# end
