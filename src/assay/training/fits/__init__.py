"""What takes several fits: a choice of parameters, members, a learning curve, labels and weight decay that are found."""
