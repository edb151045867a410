"""What each layer of a network knows (notebooks 3 and 4).

subjects          the networks under study, and how each is shown a face
chips             faces as dlib's recogniser wants them
features          what the layers make of pictures, as vectors
probes            what a linear reader finds in them
layers            scores of layers, with intervals over people, in tables
comparisons       pairs of heads: gathered, judged and told
similarity        what moves features, which faces are neighbours
counterfactuals   pictures with one factor changed; pictures unlike training's
occlusion         where in the picture an answer is read
units             single units: what they follow and like
photos            real photos with landmarks, as a sample
exploring         the package that notebook 3 plays with
figures, head_figures    of notebooks 3 and 4
"""
