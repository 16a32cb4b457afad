"""clickloop on Kafka: the learner, the publisher, the policy client, the settings and the command line.

Everything here adapts the plain functions of `policies` to topics, processes and people. Nothing outside imports it.
"""
