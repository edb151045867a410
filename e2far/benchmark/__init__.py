"""How published benchmarks judge a face, and rivals; on known vertices `evaluation` does.

metrics       distances of vertices, to a scan (NoW) and of landmarks; one person's consistency
protocols     Feng, REALY, landmarks by yaw
anatomy       regions of the face, normals, what each ARKit unit moves
landmark_fit  rivals that see landmarks alone: eos, and our refinement
detector      finds the landmarks for these, with our network's trunk and training
iterative     a rival that iterates: a network that sees its own estimate
speed, training_speed    stopwatches; error against time; what a training step takes and needs
datasets      readers of data sets of real faces
judge         a reconstructor on a data set of the user's own
tables        notebook 5's tables of errors by method, iteration, protocol and region
subgroups     of errors by movement of the face and by group of people
steadiness    of errors in other worlds and other pictures of a person, and of confidence
words         what notebook 5 says of them
report        what it writes for other pages
figures, error_figures    of notebook 5 and the speed appendix
"""
