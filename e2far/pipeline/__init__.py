"""What stages, notebooks and the command line need to run the study.

params          numbers of params.yaml, as attributes and as arguments of a training
jobs            whole trainings, and several of them side by side
record          what a run was made with, and how long it took
training_study  the trainings of notebook 2; training_tables and training_figures show them
diagram         the network as a drawing
layer_study     what the layers of five networks know: tables for notebook 3
head_study      heads on four trunks: tables for notebook 4
race            every method of notebook 5: trained, fitted, measured; given_landmarks: its fits
real_photos     the layer study on the user's photos
long_training   the training behind the shipped weights
commands        `e2far train`, `build-face-model` and `long`
"""
